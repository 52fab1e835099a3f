"""The weight-transfer backend `moe_patch`: add and remove patches through vLLM's weight updates.

    vllm serve BASE --weight-transfer-config '{"backend": "moe_patch"}'

Between `start_weight_update` and `finish_weight_update` every `update_weights` is one of

    {"add": PATH, "hash": HASH, "position": N or absent}    {"remove": HASH}    {"reorder": [HASH, ...]}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from moe_patch.errors import ConfigError
from moe_patch_serving.worker.live import live_patches


@dataclass
class PatchInit(WeightTransferInitInfo):
    """No setup data is needed."""


@dataclass
class PatchUpdate(WeightTransferUpdateInfo):
    """One change: exactly one of `add`, `remove` and `reorder`."""

    add: str | None = None  # the path of a patch file
    hash: str | None = None  # content hash that the patch must have
    position: int | None = None  # counted from 1; on top if not given
    allow_large: bool = False  # accept changes that are much larger than the experts
    remove: str | None = None  # hash of a patch
    reorder: list[str] | None = None  # all hashes, the lowest first

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.add, self.remove, self.reorder)) != 1:
            raise ConfigError("weight update: expected exactly one of add, remove and reorder")
        if (self.add is None) != (self.hash is None):
            raise ConfigError("weight update: `hash` goes with `add`, which needs it")


class PatchTransferEngine(WeightTransferEngine[PatchInit, PatchUpdate]):
    """Changes patches instead of sending weights. An update that fails changes nothing."""

    init_info_cls = PatchInit
    update_info_cls = PatchUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: PatchInit) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Nothing to prepare: weights are changed in place."""

    def finish_weight_update(self) -> None:
        """Nothing to finish."""

    def receive_weights(self, update_info: PatchUpdate) -> None:
        """Make one change.

        Raises:
            MoePatchError: `LivePatches` refuses the change, or the patch cannot be read.
        """
        live = live_patches(self.model, self.vllm_config)
        if update_info.add is not None and update_info.hash is not None:
            live.add_file(
                Path(update_info.add),
                update_info.hash,
                update_info.position,
                allow_large=update_info.allow_large,
            )
        elif update_info.remove is not None:
            live.remove(update_info.remove)
        elif update_info.reorder is not None:
            live.reorder(update_info.reorder)

    def shutdown(self) -> None:
        """Nothing to release."""
