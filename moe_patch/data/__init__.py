"""What goes into a build: facts, preserved text, and the prompts that both become.

Everything above `moe_patch.io` may import this package. It imports `io` and no transformers: a tokenizer is
an argument.
"""
