"""One expert's weight with deltas added: the sum, its rounding, and how much of an edit rounding loses.

Imported by everything that writes weights: `apply`, `checkpoint`, `export` and the serving package. It
imports `patch` and `base`.
"""
