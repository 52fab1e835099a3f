"""Methods of others, to compare with: each one file here, and one line of `moe_patch.methods.METHODS`.

They end in a patch as all methods do. So those that change weights change down projections of experts,
whatever else the original changes; each says where it departs.
"""
