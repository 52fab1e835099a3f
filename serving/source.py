"""The checkpoint that an engine serves, as moe-patch opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_patch.checkpoint import Checkpoint, open_checkpoint
from moe_patch.checkpoint.folder import find_folder

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig


def served_checkpoint(model_config: ModelConfig, load_config: LoadConfig) -> Checkpoint:
    """The files that the engine loaded its weights from, or is about to.

    Raises ModelError where they cannot be edited: experts that do not run through transformers' interface,
    and quantised ones, with what to do instead.
    """
    where = {"revision": model_config.revision, "cache_dir": load_config.download_dir}
    return open_checkpoint(find_folder(model_config.model, **where))
