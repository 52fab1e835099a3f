"""Target values: what a layer should output at a fact's edited token, found by gradient descent.

`methods` and everything above may import this package. It imports `base` and the packages below it.
"""
