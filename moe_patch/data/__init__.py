"""The inputs of a build: facts, preserved text, and the prompts made of them.

Everything above `moe_patch.io` may import this package. It imports `io` and no transformers: a tokenizer is
an argument.
"""
