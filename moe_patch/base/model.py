"""Opening a base model: its MoE layers, their layout, and the fingerprint that names it.

Everything here is read off the live module. Transformers gives the experts class of every MoE model that it
routes through one interface the same flags (`is_transposed`, `has_gate`, ...). Those flags, and never a shape
or a model's name, say how the down projections are stored: a square matrix does not tell its orientation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import align_module_device
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from moe_patch.base.dense import DenseLayer, dense_decoder, dense_layer
from moe_patch.errors import ModelError
from moe_patch.patch import Fingerprint
from moe_patch.versions import norm_follows

logger = logging.getLogger(__name__)

_AutoModel: Any = AutoModelForCausalLM  # its annotations leave out what `output_loading_info` adds

_INTERFACE_FLAGS = ("is_transposed", "is_concatenated", "has_bias", "has_gate", "_apply_gate")

_NOT_EDITABLE = {  # families that do not run through the experts interface, with better words for why
    "llama4": "its routing weights multiply the experts' inputs and not their outputs",
    "dbrx": "its experts are stacked in one matrix and do not run through the experts interface",
    "jetmoe": "its experts share one bias and do not run through the experts interface",
    "longcat_flash": "some of its experts are identities, and none run through the experts interface",
    "doge": "its experts are rank-one rows of an embedding and have no down projection",
}

_AFTER_EXPERTS = re.compile(r"post_(mlp|feedforward|feed_forward|ffn|moe)_")

_VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",  # tools set these to suit a tokenizer, and no forward pass depends on them
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "experts_implementation",
    "layer_types",  # some releases name a layer's kind differently; the index says which layers are MoE
    "mlp_layer_types",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "quantization_config",  # says how weights are stored; what they are, the experts' hashes say
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}

_originals: MutableMapping[nn.Module, dict[int, Tensor]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class MoELayer:
    """One decoder layer's experts.

    `layout` names how the down projections are stored: "out_in" is (E, d_m, d_k), "in_out" is (E, d_k, d_m).
    `warning` says why the closed form is not exact in this layer, where it is not.
    """

    index: int
    name: str
    experts: nn.Module = field(repr=False)
    num_experts: int
    d_model: int
    d_key: int
    layout: str
    warning: str | None

    @contextmanager
    def weights(self) -> Iterator[Tensor]:
        """All down projections (E, d_m, d_k): a view on the live weights, or a copy of offloaded ones."""
        with align_module_device(self.experts):
            stored = self._down_proj.detach()
            if stored.device.type == "meta":
                raise ModelError(f"{self.name}.down_proj has no data: load the model's weights first")
            yield stored.transpose(1, 2) if self.layout == "in_out" else stored

    def down(self, expert: int) -> Tensor:
        """One down projection (d_m, d_k): a view on the live weight, or a copy of an offloaded one."""
        if not 0 <= expert < self.num_experts:
            raise ModelError(f"{self.name} has experts 0 to {self.num_experts - 1}, not {expert}")
        with self.weights() as stacked:
            return stacked[expert].clone() if self.offloaded else stacked[expert]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, d_m, d_k), whatever the layout."""
        return self.num_experts, self.d_model, self.d_key

    @property
    def originals(self) -> dict[int, Tensor]:
        """Down projections (d_m, d_k) as they were before a merge, by expert; whoever merges keeps them here.

        They belong to the live module and not to this view of it, so that the model is recognised under its
        patches however it is wrapped.
        """
        return _originals.setdefault(self.experts, {})

    @property
    def offloaded(self) -> bool:
        """Whether accelerate keeps the weights elsewhere and loads them for each forward pass only."""
        return bool(getattr(getattr(self.experts, "_hf_hook", None), "offload", False))

    @property
    def device(self) -> torch.device:
        """Where the experts run."""
        hook: Any = getattr(self.experts, "_hf_hook", None)
        return torch.device(hook.execution_device) if self.offloaded else self._down_proj.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self._down_proj.dtype

    @property
    def _down_proj(self) -> Tensor:
        return cast("Tensor", self.experts.down_proj)


@dataclass(slots=True)
class Base:
    """A model that patches are built on and applied to: its tokenizer, its MoE layers by decoder index."""

    model: Any = field(repr=False)  # a transformers PreTrainedModel, whose methods carry no types
    tokenizer: Any = field(repr=False)
    name: str
    layers: dict[int, MoELayer] = field(repr=False)
    decoder_layers: nn.ModuleList = field(repr=False)
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def num_layers(self) -> int:
        """Decoder layers, dense ones included."""
        return len(self.decoder_layers)

    @property
    def decoder(self) -> nn.Module:
        """The model without its language modelling head."""
        return cast("nn.Module", self.model.get_decoder())

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        hook = getattr(self.model, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        return self.model.device if device is None else torch.device(device)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    def layer(self, index: int) -> MoELayer:
        """The MoE layer at decoder index `index`; ModelError for a dense layer or one out of range."""
        if not 0 <= index < self.num_layers:
            raise ModelError(
                f"layer {index} is out of range: {self.name} has layers 0 to {self.num_layers - 1}"
            )
        if index not in self.layers:
            raise ModelError(
                f"layer {index} of {self.name} is dense; its MoE layers are {_ranges(self.layers)}"
            )
        return self.layers[index]

    def feed_forward(self, index: int) -> MoELayer | DenseLayer:
        """The layer at decoder index `index`, be it dense; ModelError where there is none to know."""
        if index in self.layers or not 0 <= index < self.num_layers:
            return self.layer(index)
        return dense_layer(index, self.decoder_layers[index])

    def fingerprint(self, layers: Iterable[int]) -> Fingerprint:
        """What identifies this base to a patch that edits `layers`; merged patches are seen through."""
        numbers, config = sorted(layers), self.model.config.get_text_config()
        shapes = [[number, *self.layers[number].shape] for number in sorted(self.layers)]
        index = {
            "layers": shapes,
            "depth": self.num_layers,
            "vocabulary": config.vocab_size,
            "hidden": self.hidden_size,
        }
        for number in numbers:
            if number not in self._hashes:
                self._hashes[number] = down_hash(self.feed_forward(number))
        return Fingerprint(
            model_type=config.model_type,
            config=_sha256_json(_settled_config(config)),
            index=_sha256_json(index),
            experts={number: self._hashes[number] for number in numbers},
            shapes={number: self.feed_forward(number).shape for number in numbers},
        )


def open_base(
    name: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    allow_dense: bool = False,
) -> Base:
    """Open a model by name or folder; None is the demo model that ships with the recipes.

    `dtype` None keeps the checkpoint's own. `device_map` and `offload_folder` go to accelerate. Raises
    ModelError where the model cannot be found or lacks weights, is dense or quantised, or has experts that
    cannot be edited; a dense one passes with `allow_dense`.
    """
    place = str(resources.files("moe_patch.recipes") / "atlas" / "model") if name is None else str(name)
    options: dict[str, Any] = {"dtype": dtype or "auto", "use_safetensors": True, "output_loading_info": True}
    if device_map is not None:
        options |= {"device_map": device_map, "offload_folder": offload_folder}
    try:
        model, loading = _AutoModel.from_pretrained(place, **options)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot open the model {place!r}: {error}") from error
    if absent := sorted(loading["missing_keys"]):  # transformers has made them up
        raise ModelError(f"the model {place!r} lacks {len(absent)} weights, the first of them {absent[0]}")
    return wrap(model.eval(), tokenizer, "atlas" if name is None else place, allow_dense=allow_dense)


def wrap(model: nn.Module, tokenizer: Any, name: str | None = None, *, allow_dense: bool = False) -> Base:
    """A Base around a live model. Raises ModelError if it cannot be edited, and logs why it is not exact.

    A model without experts is refused, unless `allow_dense` says that no weight of one is to be edited.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"expected a transformers model, not {type(model).__name__}")
    config = model.config.get_text_config()
    found = {path: module for path, module in model.named_modules() if _runs_through_interface(module)}
    known_as = name or config.name_or_path or config.model_type
    if not found and allow_dense and _is_dense(model):
        return Base(model, tokenizer, known_as, {}, dense_decoder(model))
    if not found:
        raise ModelError(_why_not(model, config.model_type))
    blocks, decoder = _decoder(model, found)
    layers: dict[int, MoELayer] = {}
    for path, module in found.items():
        match = re.match(re.escape(blocks) + r"\.(\d+)\.", path)
        if match is None:
            continue
        index = int(match[1])
        if index in layers:
            raise ModelError(
                f"layer {index} has two sets of experts ({layers[index].name}, {path}): not supported"
            )
        layers[index] = _describe(index, path, module, decoder[index], config.hidden_size)
    for warning in sorted({layer.warning for layer in layers.values() if layer.warning}):
        logger.warning("%s: %s", config.model_type, warning)
    return Base(model, tokenizer, known_as, layers, decoder)


def down_hash(layer: MoELayer | DenseLayer) -> str:
    """SHA-256 over the layer's down projections as the base has them, in expert order.

    Each is oriented (d_m, d_k) and hashed as little-endian fp32, so packed, split and transposed layouts
    agree, and so does a bf16 checkpoint opened as fp32. Experts that a merge has changed count with their
    kept originals.
    """
    digest = hashlib.sha256()
    with layer.weights() as stacked:
        for expert in range(layer.num_experts):
            down = layer.originals.get(expert, stacked[expert])
            digest.update(down.float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _runs_through_interface(module: nn.Module) -> bool:
    return all(hasattr(module, flag) for flag in _INTERFACE_FLAGS) and hasattr(module, "down_proj")


def _decoder(model: Any, found: Iterable[str]) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder layers that hold experts; the text decoder's where there are several."""
    candidates: dict[str, nn.ModuleList] = {}
    for path in found:
        parts = path.split(".")
        for depth in range(1, len(parts)):
            module = model.get_submodule(".".join(parts[:depth]))
            if isinstance(module, nn.ModuleList):
                candidates[".".join(parts[:depth])] = module
                break
    within = {id(module) for module in model.get_decoder().modules()}
    text = {path: module for path, module in candidates.items() if id(module) in within} or candidates
    if len(text) != 1:
        raise ModelError(
            f"expected one list of decoder layers with experts, found {sorted(candidates) or 'none'}"
        )
    return next(iter(text.items()))


def _describe(index: int, path: str, experts: Any, block: nn.Module, hidden_size: int) -> MoELayer:
    weight = experts.down_proj
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.element_size() < 2:
        kind = getattr(weight, "dtype", type(weight).__name__)
        raise ModelError(
            f"{path}.down_proj is quantised or sharded ({kind}): open the model in a float dtype"
        )
    transposed = bool(experts.is_transposed)
    num_experts, first, second = weight.shape
    d_model, d_key = (second, first) if transposed else (first, second)
    return MoELayer(
        index=index,
        name=path,
        experts=experts,
        num_experts=num_experts,
        d_model=d_model,
        d_key=d_key,
        layout="in_out" if transposed else "out_in",
        warning=_inexact(experts, d_model, block, hidden_size),
    )


def _inexact(experts: Any, d_model: int, block: nn.Module, hidden_size: int) -> str | None:
    """Why adding to the experts' output is not adding as much to the residual stream, or None."""
    if norm_follows(experts):
        return "a norm follows every expert, so the closed form is not exact"
    if d_model != hidden_size:
        return "a projection follows the experts, so the closed form is not exact in the residual stream"
    for path, module in block.named_modules():
        leaf = path.rpartition(".")[2]
        if _AFTER_EXPERTS.match(leaf):
            return f"{leaf} follows the experts, so the closed form is not exact"
        if "HyperConnection" in type(module).__name__:
            return "hyper-connections mix several residual streams, so the closed form is not exact"
    return None


def _is_dense(model: PreTrainedModel) -> bool:
    return not any(re.search("moe|expert", type(part).__name__, re.IGNORECASE) for part in model.modules())


def _why_not(model: PreTrainedModel, model_type: str) -> str:
    """Why a model none of whose modules runs through the experts interface cannot be edited."""
    if _is_dense(model):
        return f"{model_type} is a dense model: it has no experts to edit"
    if getattr(model.config, "quantization_config", None) is not None:
        return f"{model_type} is quantised: open it dequantised, its experts' weights must be floats"
    for family, reason in _NOT_EDITABLE.items():
        if model_type.startswith(family):
            return f"{model_type} cannot be edited: {reason}"
    return f"{model_type} cannot be edited: its experts do not run through transformers' experts interface"


def _settled_config(config: Any) -> dict[str, Any]:
    """What sets the config apart from its class's defaults, so that a new release's fields change nothing."""
    defaults = type(config)().to_dict()
    settled = config.to_dict()
    return {
        key: value
        for key, value in settled.items()
        if key not in _VOLATILE_CONFIG and (key not in defaults or value != defaults[key])
    }


def _sha256_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _ranges(numbers: Iterable[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
