"""MEMoE: how a bypass is trained, by knowledge frequency, division among experts, losses, and the loop.

Imported by `methods` alone. It imports the parts that methods share, `bypass`, `evaluation`, `targets` and
`base`.
"""
