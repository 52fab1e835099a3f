"""The mathematics of an edit, as functions of tensors.

`base`, `targets`, `stack` and everything above them may import this package. It imports `patch` (for rows and
deltas) and no transformers: nothing here knows a model.
"""
