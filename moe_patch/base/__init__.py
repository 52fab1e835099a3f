"""A base model of transformers: opening it, its fingerprint, observing it, and running parts of it.

`apply`, `targets` and everything above them may import this package. It imports `io`, `data`, `patch` and
`solve`.
"""
