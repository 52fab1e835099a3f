"""The load format `moe_patch`: patches added to the weights while vLLM loads them.

Imported by `worker` and `launch`. It imports `bypass` and the modules beside the packages.
"""
