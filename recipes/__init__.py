"""The demo model, recipes and facts; and, in a checkout, the scripts that made and measured them.

What is installed are the data alone, as the package `moe_patch.recipes`: `atlas/`, `facts/` and `models/`,
which `moe_patch.io.shipped` finds. `benchmarks` and `training` are run from a checkout's root, as
`python -m recipes.benchmarks.NAME`. They may import all of `moe_patch`, and nothing imports them.
"""
