"""Live patches in one worker's memory: `--worker-extension-cls moe_patch_serving.worker.PatchWorker`.

Imported by vLLM, in its worker processes, and by nothing here but `launch`. It imports `load` and `bypass`.
"""

from __future__ import annotations

from moe_patch_serving.worker.extension import PatchWorker

__all__ = ["PatchWorker"]
