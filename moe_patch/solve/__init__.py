"""The mathematics of an edit: tensors in, tensors out.

Imported by `base`, `targets`, `stack` and everything above them. It imports `patch` (for rows and deltas),
and no transformers: nothing here knows a model.
"""
