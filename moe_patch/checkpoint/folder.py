"""A checkpoint folder: its config, its MoE layers, and where their down projections are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor

from moe_patch.base.classes import read_config, text_class
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.base.origin import known_leaves
from moe_patch.base.parts import Part
from moe_patch.base.refusal import transformers_reads
from moe_patch.checkpoint.leaves import StoredLeaves
from moe_patch.checkpoint.names import AnySlot, follow_loader, locate_experts
from moe_patch.checkpoint.quantised import METHODS
from moe_patch.checkpoint.shards import read_spans, weight_files
from moe_patch.checkpoint.tokens import stored_tokens
from moe_patch.errors import ModelError
from moe_patch.io.model_place import ModelPlace, find_model
from moe_patch.patch import Fingerprint
from moe_patch.progress import Progress

_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that holds a model."""

    folder: Path
    name: str
    base: Base = field(repr=False)  # on the meta device: no weights are in memory
    weights: tuple[str, ...]  # names of the files with the weights
    slots: dict[int, list[AnySlot]] = field(repr=False)  # by layer, in expert order
    leaves: StoredLeaves = field(repr=False)

    def fingerprint(
        self, layers: Iterable[int], *, fresh: bool = False, progress: Progress | None = None
    ) -> Fingerprint:
        """What identifies this base to a patch that edits `layers`; the opened model has the same.

        Args:
            layers: the edited layers.
            fresh: hash the files; otherwise hashes known from earlier calls on the same files are used.
            progress: called while files are hashed.

        Raises:
            ModelError: the base does not have one of the layers, or a file cannot be read.
        """
        return self.identity(layers, self.pieces(fresh=fresh, progress=progress))

    def touched_fingerprint(self, layers: Iterable[int], known: Mapping[int, str]) -> Fingerprint:
        """The fingerprint without nodes: of the weights, only the experts of `layers` are hashed.

        Args:
            layers: the edited layers. Those that this base does not have are left out.
            known: the hashes of layers that need not be hashed again.

        Raises:
            ModelError: a file cannot be read.
        """
        parts, numbers = self.base.parts(), sorted(set(layers) & self.base.layers.keys())
        fresh = {number: self.base.down_part(parts, number) for number in numbers if number not in known}
        pieces = self.leaves.hash(self.leaves.stored(fresh.values()))
        hashes = {**known, **{number: part.leaf(pieces) for number, part in fresh.items()}}
        experts = {number: hashes[number] for number in numbers}
        return replace(self.base.outline(numbers), experts=experts, tokens=stored_tokens(self.folder))

    def fingerprint_like(
        self, known: Fingerprint, *, fresh: bool = False, progress: Progress | None = None
    ) -> Fingerprint:
        """What identifies this base to be compared with `known`: in its format, for its layers.

        Layers that this base does not have are left out. Format 1 hashes these layers anew.

        Raises:
            ModelError: a file cannot be read.
        """
        layers = sorted(known.experts.keys() & self.base.layers.keys())
        if known.format > 1:
            return self.fingerprint(layers, fresh=fresh, progress=progress)
        hashes = {layer: self.down_hash(layer) for layer in layers}
        return replace(self.base.outline(layers, version=1), experts=hashes, tokens={})

    def identity(self, layers: Iterable[int], pieces: Mapping[str, Tensor]) -> Fingerprint:
        """The fingerprint that follows from the hashes (n, 32) of all tensors' pieces, by their names.

        Raises:
            ModelError: the base does not have one of the layers.
        """
        found = self.base.identity(layers, self._distinct(pieces), pieces)
        return replace(found, tokens=stored_tokens(self.folder))

    def root(self, pieces: Mapping[str, Tensor]) -> str:
        """The root of the fingerprint that follows from all tensors' pieces, which needs no tokenizer."""
        return self.base.identity([], self._distinct(pieces), pieces).root

    def known_pieces(self) -> dict[str, Tensor] | None:
        """As `pieces`, from known hashes alone; None if they are not known.

        Raises:
            ModelError: the files do not hold all of the model.
        """
        found = known_leaves(self.folder).find() or {}
        known = all(part.name in found for part in self.leaves.stored(self.base.parts()))
        return found if known else None

    def pieces(
        self, *, fresh: bool = False, progress: Progress | None = None, threads: int | None = None
    ) -> dict[str, Tensor]:
        """The hashes (n, 32) uint8 of the pieces of all tensors, by their names; see `moe_patch.base.parts`.

        Args:
            fresh: hash the files; otherwise hashes known from earlier calls on the same files are used.
            progress: called while files are hashed.
            threads: how many hash at a time; None for as many as there are cores.

        Raises:
            ModelError: the files do not hold all of the model, or cannot be read.
        """
        known = known_leaves(self.folder)
        found = {} if fresh else known.find() or {}
        missing = [part for part in self.leaves.stored(self.base.parts()) if part.name not in found]
        if missing:
            found |= self.leaves.hash(missing, progress, threads)
            known.store(found)
        return found

    def _distinct(self, pieces: Mapping[str, Tensor]) -> list[Part]:
        """The parts of the opened model. A tied one is two if it is stored twice, with different numbers."""
        found = []
        for part in self.base.parts():
            first, *others = self.leaves.stored([part])
            found.append(first)
            found += [one for one in others if not torch.equal(pieces[one.name], pieces[first.name])]
        return found

    def weight(self, layer: int, expert: int) -> Tensor:
        """A down projection (d_m, d_k), read from its file.

        Raises:
            ModelError: the file cannot be read.
        """
        return self.slots[layer][expert].read(self.folder)

    def stored_name(self, layer: int, expert: int) -> str:
        """The name of a down projection as a module of its own, without ".weight".

        It is the checkpoint's own name if it stores each expert by itself, else one made from the layer's.
        """
        slot = self.slots[layer][expert]
        packed = slot.name == self.slots[layer][expert - 1].name
        named = f"{self.base.layer(layer).name}.{expert}.down_proj" if packed else slot.name
        return named.removesuffix(".weight")

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
    spans = read_spans(folder)
    sources = follow_loader(base.model, spans)
    slots = locate_experts(base, sources, spans)
    leaves = StoredLeaves(folder, base.model, sources, spans)
    return Checkpoint(folder, base.name, base, tuple(weight_files(folder)), slots, leaves)


def open_meta(name: str | Path | None = None) -> tuple[Path, Base]:
    """A checkpoint's folder, and its model without weights.

    Raises:
        ModelError: there is no such checkpoint, its config cannot be read, or its experts cannot be edited.
    """
    place = find_model(name)
    folder = fetched_folder(place)
    config = read_config(folder)
    auto = text_class(config)
    with transformers_reads(f"the config of '{folder}'"), torch.device("meta"):
        model = auto.from_config(config)
    return folder, wrap(model, tokenizer=None, name=place.name)


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
    return fetched_folder(find_model(name, revision=revision, cache_dir=cache_dir), revision, cache_dir)


def fetched_folder(
    place: ModelPlace, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The folder of a model that was found, fetched from the Hub if it is not on this machine.

    Raises:
        ModelError: the Hub does not give it.
    """
    if place.folder is not None:
        return place.folder
    ignored = list(_OTHER_WEIGHTS)
    try:
        return Path(
            snapshot_download(place.name, revision=revision, cache_dir=cache_dir, ignore_patterns=ignored)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"the model {place.name!r} cannot be fetched: {error}") from error
