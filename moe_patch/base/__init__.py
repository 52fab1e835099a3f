"""A base model of transformers: opened, named by a fingerprint, watched, and run in parts.

Imported by `apply`, `targets` and everything above them. It imports `io`, `data`, `patch` and `solve`.
"""
