"""A checkpoint folder: its config, its MoE layers, and where their down projections are stored."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.checkpoint.known import known_hash
from moe_patch.checkpoint.names import AnySlot, locate_experts
from moe_patch.checkpoint.quantised import METHODS
from moe_patch.checkpoint.shards import read_spans, weight_files
from moe_patch.errors import ModelError
from moe_patch.io.shipped import demo_model
from moe_patch.patch import Fingerprint

_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that holds a model."""

    folder: Path
    name: str
    base: Base = field(repr=False)  # on the meta device: no weights are in memory
    weights: tuple[str, ...]  # names of the files with the weights
    slots: dict[int, list[AnySlot]] = field(repr=False)  # by layer, in expert order

    def fingerprint(self, layers: Iterable[int], *, fresh: bool = True) -> Fingerprint:
        """What identifies this base to a patch that edits `layers`; the opened model has the same.

        Args:
            layers: the edited layers.
            fresh: compute the hashes; otherwise hashes known from earlier calls on the same files are used.

        Raises:
            ModelError: the base does not have one of the layers, or a file cannot be read.
        """
        numbers = sorted(layers)
        with ThreadPoolExecutor() as pool:
            found = pool.map(partial(self._known_down_hash, fresh=fresh), numbers)
            hashes = dict(zip(numbers, found, strict=True))
        shapes = {number: self.base.layer(number).shape for number in numbers}
        return dataclasses.replace(self.base.fingerprint([]), experts=hashes, shapes=shapes)

    def stored_name(self, layer: int, expert: int) -> str:
        """The name of a down projection as a module of its own, without ".weight".

        It is the checkpoint's own name if it stores each expert by itself, else one made from the layer's.
        """
        slot = self.slots[layer][expert]
        packed = slot.name == self.slots[layer][expert - 1].name
        named = f"{self.base.layer(layer).name}.{expert}.down_proj" if packed else slot.name
        return named.removesuffix(".weight")

    def _known_down_hash(self, layer: int, *, fresh: bool) -> str:
        self.base.layer(layer)  # raises for a layer without experts
        slots = self.slots[layer]
        files = [self.folder / name for name in sorted(set().union(*(slot.files for slot in slots)))]
        places = [repr(slot) for slot in slots]

        def compute() -> str:
            return self.down_hash(layer).removeprefix("sha256:")

        return f"sha256:{known_hash([*places], files, compute, fresh=fresh)}"

    def down_hash(self, layer: int) -> str:
        """The SHA-256 of a layer's down projections as `moe_patch.base.model` has it, read one at a time."""
        self.base.layer(layer)  # raises for a layer without experts
        digest = hashlib.sha256()
        for slot in self.slots[layer]:
            down = slot.read(self.folder)  # (d_m, d_k)
            digest.update(down.float().contiguous().numpy().astype("<f4", copy=False).data)
        return f"sha256:{digest.hexdigest()}"


def open_checkpoint(name: str | Path | None = None, *, quantised: bool = False) -> Checkpoint:
    """Open a checkpoint by folder, or by its name on the Hub; None is the demo model.

    Args:
        name: a folder or a name on the Hub.
        quantised: whether experts in MXFP4 or FP8 are allowed.

    Raises:
        ModelError: there is no such checkpoint, its experts cannot be edited, or they are quantised although
            that is not allowed or in another way.
    """
    folder, base = open_meta(name)
    method = quantisation_scheme(base)
    if method is not None and not (quantised and method in METHODS):
        raise ModelError(
            f"{folder} is quantised ({method}), and rounding to that format would lose much of an edit: "
            "serve the patch beside the weights, as an adapter (moe-patch export --format peft), or merge it "
            "into a checkpoint that is not quantised"
        )
    slots = locate_experts(base, read_spans(folder))
    return Checkpoint(folder, base.name, base, tuple(weight_files(folder)), slots)


def open_meta(name: str | Path | None = None) -> tuple[Path, Base]:
    """A checkpoint's folder, and its model without weights.

    Raises:
        ModelError: there is no such checkpoint, its config cannot be read, or its experts cannot be edited.
    """
    folder = find_folder(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no config that transformers can read: {error}") from error
    auto: Any = AutoModelForCausalLM if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModel
    with torch.device("meta"):
        model = auto.from_config(config)
    return folder, wrap(model, tokenizer=None, name="atlas" if name is None else str(name))


def quantisation_scheme(base: Base) -> str | None:
    """The quantisation method that the model's config names; None if it is not quantised."""
    config = base.model.config
    for part in (config, config.get_text_config()):
        settings = getattr(part, "quantization_config", None)
        if settings is not None:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
            return str(method)
    return None


def find_folder(
    name: str | Path | None, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The folder of a checkpoint, fetched from the Hub if `name` is not a folder; None is the demo model.

    Args:
        name: a folder or a name on the Hub.
        revision: which revision to fetch.
        cache_dir: where to fetch it to.

    Raises:
        ModelError: `name` is not a folder, and cannot be fetched.
    """
    if name is None:
        return demo_model()
    if Path(name).is_dir():
        return Path(name)
    ignored = list(_OTHER_WEIGHTS)
    try:
        return Path(
            snapshot_download(str(name), revision=revision, cache_dir=cache_dir, ignore_patterns=ignored)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{name} is neither a folder nor a model that can be fetched: {error}") from error
