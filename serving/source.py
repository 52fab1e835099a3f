"""Opens the checkpoint that an engine serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_patch.checkpoint import Checkpoint, open_checkpoint
from moe_patch.checkpoint.folder import find_folder

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig


def served_checkpoint(model_config: ModelConfig, load_config: LoadConfig) -> Checkpoint:
    """The checkpoint from which the engine loads its weights.

    Raises:
        ModelError: its experts cannot be edited, because transformers' interface does not run them or they
            are quantised. The message says what to do instead.
    """
    where = {"revision": model_config.revision, "cache_dir": load_config.download_dir}
    return open_checkpoint(find_folder(model_config.model, **where))
