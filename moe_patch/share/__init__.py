"""Patches that others made: fetched from the Hub and sent there, and verified.

Imported by the serving package and `cli`. It imports `evaluation`, `checkpoint`, `apply` and what is below
them.
"""
