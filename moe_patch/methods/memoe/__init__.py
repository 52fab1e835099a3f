"""MEMoE: training a bypass. Knowledge frequency, division of facts among experts, losses, and the loop.

Imported by `methods` alone. It imports the parts that methods share, `bypass`, `evaluation`, `targets` and
`base`.
"""
