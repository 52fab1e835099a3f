"""One expert's weight with deltas added: the sum, its rounding, and what rounding takes from an edit.

Imported by everything that writes weights: `apply`, `checkpoint`, `export` and the serving package. It
imports `patch` and `base`.
"""
