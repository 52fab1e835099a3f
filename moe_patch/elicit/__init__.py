"""What a base says by itself: contexts, other wordings of a prompt, other subjects for it, known facts.

`apply`, `targets` and everything above them may import this package. It imports `base` and what is below.
"""
