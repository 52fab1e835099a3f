"""How atlas, the demo model, its facts and its recipe were made: run from a checkout's root.

Imported by `recipes.benchmarks`, `recipes.families` and tests. It may import all of `moe_patch`.
"""
