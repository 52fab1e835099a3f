"""Bypass patches inside vLLM: modules beside a block of experts. A change of weights cannot express them.

A prompt's expert is chosen once, from the block's inputs at all of its tokens, and kept by request id until
the request ends. vLLM runs tokens of many requests in one batch, and may split a prompt. `rows` says whose
tokens a step runs. `decisions` has the chosen experts. `served_bypass` adds their outputs, through one custom
operator in the graph. `runner` and `model_state` get the rows from vLLM's two model runners. `limits` refuses
unsuitable settings at start, `flags` has the options to start with, and `install` puts everything together.

Imported by `load`, `worker` and `launch`. It imports the modules beside the packages.
"""
