"""Adds and removes patches by RPC: `--worker-extension-cls moe_patch_serving.worker.PatchWorker`.

vLLM mixes the class into its worker, in each worker process; `collective_rpc` calls a method on all of them.
A call does all of its work in a worker, or none. The caller has to compare the workers' answers, to drain the
engine, to clear prefix caches and to name the weights. Arguments and results are plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_patch.errors import MoePatchError
from moe_patch_serving.bypass.operator import registered_bypasses
from moe_patch_serving.worker.live import LivePatches, live_patches, load_as


class PatchWorker:
    """The methods to call on a worker. Each returns the worker's state, a JSON object:

    patches: hashes of the live patches, the lowest first.
    loaded: hashes of the patches that were added at loading and are still on.
    bytes_kept: size of the kept originals of touched experts, on the host.
    layers: the decoder layers of the touched experts in this worker.
    experts: the number of touched experts in this worker.
    weights: SHA-256 of the present weights of these experts in this worker.
    base: whether the served checkpoint is the patches' base, see `ServedBase.state`.

    After an expected error a method returns {"error": {"type": CLASS, "message": TEXT}}, where the class is
    one of `moe_patch.errors`. Other errors are raised. After any error the worker is as it was before.
    """

    def moe_patch_add(
        self, path: str, expected_hash: str, position: int | None = None, allow_large: bool = False
    ) -> dict[str, Any]:
        """Add the patch in the file at `path` on top, or at `position`, counted from 1.

        The worker itself reads the file. It must hold the patch `expected_hash` and fit the base. With
        `allow_large`, its changes may be much larger than the experts.
        """
        return self._moe_patch_answer(
            lambda live: live.add_file(Path(path), expected_hash, position, allow_large=allow_large)
        )

    def moe_patch_remove(self, patch_hash: str) -> dict[str, Any]:
        """Remove a patch from any place in the order."""
        return self._moe_patch_answer(lambda live: live.remove(patch_hash))

    def moe_patch_reorder(self, hashes: list[str]) -> dict[str, Any]:
        """Put all live patches into another order, the lowest first."""
        return self._moe_patch_answer(lambda live: live.reorder(hashes))

    def moe_patch_ground(
        self, hashes: list[str], path: str | None = None, expected_hash: str | None = None
    ) -> dict[str, Any]:
        """Leave only `hashes` of the patches that were added at loading.

        The file at `path` has the one delta that stands for them, with the hash `expected_hash`. Without a
        file, they are all patches that were loaded, or none.
        """
        return self._moe_patch_answer(
            lambda live: live.set_ground(hashes, None if path is None else load_as(Path(path), expected_hash))
        )

    def moe_patch_state(self) -> dict[str, Any]:
        """Return the state and change nothing."""
        return self._moe_patch_answer(lambda live: None)

    def moe_patch_bypasses(self) -> dict[str, Any]:
        """The state of the bypasses in this worker, under `bypasses`. This method never fails. For each:

        patch, layer: the hash of its patch, and its decoder layer.
        requests: the number of requests for which data is kept.
        bytes_kept: size of the states of incomplete prompts.
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
