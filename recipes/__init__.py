"""The demo model, recipes and facts; in a checkout also the scripts that made and measured them.

Only the data are installed, as the package `moe_patch.recipes`: `atlas/`, `facts/`, `lm_eval/` and `models/`,
which `moe_patch.io.shipped` finds. `benchmarks`, `training`, `families` and `realmoe` are run from the root
of a checkout, as `python -m recipes.benchmarks.NAME`. They may import all of `moe_patch`, and nothing imports
them.
"""
