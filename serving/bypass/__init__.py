"""Bypass patches inside vLLM: modules beside a block of experts, which no change of weights can stand for.

A prompt's expert is chosen once, from what enters the block at all of its tokens, and kept by request id
until the request ends. vLLM runs tokens of many requests in one batch, and a prompt in pieces: `rows` says
whose tokens a step runs, `decisions` what was chosen for whom, `served_bypass` adds what the chosen experts
put out, by one custom operator in the graph. Two ways lead from vLLM's runners to the rows, `runner` and
`model_state`. `limits` refuses at start what could not be right, `flags` are the options to start with, and
`install` puts it all together.

Imported by `load`, `worker` and `launch`. It imports the modules beside the packages.
"""
