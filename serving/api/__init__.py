"""The HTTP interface of live patches: who may change what, and one change at a time for all workers.

Imported by vLLM, in its API server, and by `launch` and `moe_patch.cli`. It imports the modules beside the
packages; workers are called by name.
"""
