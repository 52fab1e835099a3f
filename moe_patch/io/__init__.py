"""Files: JSON read strictly, files written whole or not at all, tensors kept in a cache.

Everything may import this package. It imports only `moe_patch.errors`.
"""
