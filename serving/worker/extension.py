"""Patches on and off by RPC: `--worker-extension-cls moe_patch_serving.worker.PatchWorker`.

vLLM mixes the class into its worker, in each worker process; `collective_rpc` calls a method on all of them.
Each call does all of its work in that worker or none. Whether all workers did is for the caller to compare,
and draining, prefix caches and weight versions are for the caller too. Arguments and results are plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_patch.errors import MoePatchError
from moe_patch_serving.bypass.operator import registered_bypasses
from moe_patch_serving.worker.live import LivePatches, live_patches


class PatchWorker:
    """What a worker can be asked. Every method answers with the worker's state, a JSON object:

    patches: the hashes of the patches that are on, the lowest first.
    loaded: the hashes of those that are in the weights since they were loaded.
    bytes_kept: what the originals of touched experts take on the host.
    layers: the decoder layers of these experts, as far as this worker holds them.
    experts: how many they are.
    weights: SHA-256 of these experts' weights as they are now, in this worker.

    An expected failure answers {"error": {"type": CLASS, "message": TEXT}}, the class being one of
    `moe_patch.errors`, and leaves the worker as it was. Any other one is raised, and leaves it so too.
    """

    def moe_patch_add(self, path: str, expected_hash: str, position: int | None = None) -> dict[str, Any]:
        """Put the patch in the file at `path` on top, or at `position`, counted from 1.

        The file is read here, in the worker, and must hold the patch `expected_hash` and fit the base.
        """
        return self._moe_patch_answer(lambda live: live.add_file(Path(path), expected_hash, position))

    def moe_patch_remove(self, patch_hash: str) -> dict[str, Any]:
        """Take a patch off, wherever it is in the order."""
        return self._moe_patch_answer(lambda live: live.remove(patch_hash))

    def moe_patch_reorder(self, hashes: list[str]) -> dict[str, Any]:
        """Put all patches that are on into another order, the lowest first."""
        return self._moe_patch_answer(lambda live: live.reorder(hashes))

    def moe_patch_state(self) -> dict[str, Any]:
        """Only answer."""
        return self._moe_patch_answer(lambda live: None)

    def moe_patch_bypasses(self) -> dict[str, Any]:
        """What the bypasses in this worker keep, under `bypasses`; this method never fails. Of each:

        patch, layer: the hash of the patch that it is from, and the decoder layer that it is beside.
        requests: how many requests there are that something is kept of.
        bytes_kept: what the states of prompts take that have not come whole yet.
        """
        worker: Any = self
        return {"bypasses": [served.state() for served in registered_bypasses(worker.vllm_config)]}

    def _moe_patch_answer(self, act: Callable[[LivePatches], None]) -> dict[str, Any]:
        worker: Any = self
        try:
            live = live_patches(worker.get_model(), worker.vllm_config)
            act(live)
        except MoePatchError as error:
            return {"error": {"type": type(error).__name__, "message": str(error)}}
        return live.state()
