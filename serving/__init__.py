"""What runs inside or beside an inference engine that serves patched models.

Imported by vLLM, as a plugin, and by `moe_patch.cli` when a command needs it. It imports `moe_patch`, but not
`cli`. Its packages from below: `bypass`, `load`, `worker` and `api`, `launch`.
"""

from __future__ import annotations

NAME = "moe_patch"
"""What the load format and the weight-transfer backend are called."""
