"""The start of a server with patches: its command line, and the plugin that vLLM finds.

Imported by vLLM and by `moe_patch.cli`. It may import everything else of this package.
"""
