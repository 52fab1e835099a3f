"""The code that runs inside an inference engine, or next to it, to serve patched models.

Imported by vLLM, as a plugin, and by `moe_patch.cli` when a command needs it. It imports `moe_patch`, but not
`cli`. Its packages from below: `bypass`, `load`, `worker` and `api`, `launch`.
"""

from __future__ import annotations

NAME = "moe_patch"
"""The name of the load format and of the weight-transfer backend."""
