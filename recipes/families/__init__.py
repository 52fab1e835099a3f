"""Small models of three other families that know a part of the demo world: what defaults are measured on.

    python -m recipes.families --out DIR [--family NAME]

Imported by `recipes.benchmarks` and tests. It may import all of `moe_patch`, and `recipes.training`, whose
world, sentences, edits and trainer it uses.
"""
