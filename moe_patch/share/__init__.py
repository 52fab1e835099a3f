"""Sharing patches: pull them from the Hub, push them to it, and verify them.

Imported by the serving package and `cli`. It imports `evaluation`, `checkpoint`, `apply` and what is below
them.
"""
