"""Files: strict reading of JSON, writing of whole files, and a cache of tensors.

Everything may import this package. It imports only `moe_patch.errors`.
"""
