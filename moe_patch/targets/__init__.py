"""Target values: what a layer should put out at a fact's edited token, found by gradient descent.

Imported by `methods`. It imports `base` and what is below it.
"""
