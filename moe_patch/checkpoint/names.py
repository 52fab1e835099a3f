"""From (layer, expert) to the place of its down projection in a checkpoint.

Names and orientation come from the conversions with which transformers itself loads the checkpoint. They are
followed key by key, as its loader does. A table of names would be out of date with the next release, and the
shape of a square matrix does not show whether it is transposed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    Transpose,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.checkpoint.quantised import (
    CODES,
    QUANTISED,
    QuantisedSlot,
    is_packed,
    is_scale,
    quantised_slot,
)
from moe_patch.checkpoint.shards import Span
from moe_patch.checkpoint.slot import Slot
from moe_patch.errors import ModelError
from moe_patch.patch.header import DTYPES

logger = logging.getLogger(__name__)

AnySlot = Slot | QuantisedSlot

_FLOATS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}


@dataclass(frozen=True, slots=True)
class Source:
    """What the loader makes a parameter from, or several at once."""

    first: str  # the name of the first parameter that it makes
    converter: WeightConverter | None  # None if the only tensor is taken as it is stored
    spans: dict[str, list[Span]]  # the stored tensors in the loader's order, by the converter's patterns

    @property
    def all_spans(self) -> list[Span]:
        """All stored tensors, in the loader's order."""
        return [span for spans in self.spans.values() for span in spans]

    @property
    def operations(self) -> list[Any]:
        """What the loader does with them."""
        return [] if self.converter is None else self.converter.operations

    def turns(self, operation: Any, shape: Sequence[int]) -> bool | None:
        """Whether an operation turns the matrices of a stack around; None if it is of another kind.

        Args:
            operation: one of `operations`.
            shape: of the parameter.
        """
        if not (isinstance(operation, Transpose) and {operation.dim0 % 3, operation.dim1 % 3} == {1, 2}):
            return None
        # with check_dims, transformers does not transpose what has the parameter's shape already
        return not (operation.check_dims and self.all_spans[0].shape == tuple(shape))


def locate_experts(
    base: Base, sources: Mapping[str, Source], spans: Mapping[str, Span]
) -> dict[int, list[AnySlot]]:
    """The stored down projections of every MoE layer, in expert order.

    Args:
        base: the model that the checkpoint is loaded into; its weights may be on the meta device.
        sources: as `follow_loader` gives them.
        spans: the checkpoint's tensors by name.

    Raises:
        ModelError: a layer's weights are missing, or are stored in an unknown way.
    """
    return {
        index: _slots(layer, sources.get(f"{layer.name}.down_proj"), spans)
        for index, layer in base.layers.items()
    }


def follow_loader(model: Any, spans: Mapping[str, Span]) -> dict[str, Source]:
    """What each parameter is made from, by the steps of transformers' own loader.

    Args:
        model: the model that the checkpoint is loaded into; its weights may be on the meta device.
        spans: the checkpoint's tensors by name.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    parameters, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Source] = {}
    unknown: dict[bool, list[str]] = defaultdict(list)
    for name in sorted(spans, key=dot_natural_key):
        if is_scale(name, spans):  # it is found through the tensor that it scales
            continue
        plain = name.removesuffix(CODES) if is_packed(name, spans) else name
        target, pattern = rename_source_key(plain, renamings, converters, prefix, parameters)
        if target not in parameters and plain in parameters:  # stored under the name it has in memory
            target, pattern = rename_source_key(plain, [], [], prefix, parameters)
        if target not in parameters:
            unknown[".experts." in name].append(name)
            continue
        converter = None if pattern is None else by_pattern[pattern]
        source = found.setdefault(target, Source(target, converter, {}))
        source.spans.setdefault(pattern or name, []).append(spans[name])
        if converter is not None:
            for other in converter.target_patterns[1:]:
                found.setdefault(target.replace(converter.target_patterns[0], other), source)
    if unknown[True]:
        logger.warning(
            "%d tensors of experts, such as %s, are not loaded by %s and stay unchanged: if they belong to a "
            "module that predicts several tokens ahead, it will agree less often with the patched model",
            len(unknown[True]),
            unknown[True][0],
            type(model).__name__,
        )
    return found


def _slots(layer: MoELayer, source: Source | None, spans: Mapping[str, Span]) -> list[AnySlot]:
    if source is None:
        raise ModelError(f"the checkpoint has no tensor for {layer.name}.down_proj")
    stored_spans = source.all_spans
    first = stored_spans[0]
    merges = any(isinstance(operation, MergeModulelist) for operation in source.operations)
    if merges:
        parts = [(span, span.begin, span.end, span.shape) for span in stored_spans]
    else:
        parts = [(first, *first.part(number), first.shape[1:]) for number in range(first.shape[0])]
    if len(parts) != layer.num_experts or (not merges and len(stored_spans) > 1):
        raise ModelError(
            f"{layer.name} has {layer.num_experts} experts, but the checkpoint has {len(parts)} down "
            f"projections for it, the first in {first.name}"
        )
    if first.dtype in QUANTISED:
        places = [(span, (begin, end)) for span, begin, end, _ in parts]
        sides = (layer.d_model, layer.d_key)
        return [
            quantised_slot(sides, layer.dtype, *place, number, spans) for number, place in enumerate(places)
        ]
    transposed = _transposed(layer, source) != (layer.layout == "in_out")
    stored = (layer.d_key, layer.d_model) if transposed else (layer.d_model, layer.d_key)
    for span, _, _, shape in parts:
        if span.dtype not in _FLOATS or shape != stored:
            raise ModelError(
                f"{span.name} is {span.dtype} of shape {span.shape}; expected floats of shape {stored} for "
                "each expert"
            )
    return [
        Slot(span.name, span.file, begin, end, _FLOATS[span.dtype], (layer.d_model, layer.d_key), transposed)
        for span, begin, end, _ in parts
    ]


def _transposed(layer: MoELayer, source: Source) -> bool:
    """Whether loading transposes the stored matrices; ModelError for operations of other kinds."""
    turned, shape = False, cast("Tensor", layer.experts.down_proj).shape
    for operation in source.operations:
        if (turns := source.turns(operation, shape)) is not None:
            turned ^= turns
        elif not (isinstance(operation, MergeModulelist) and operation.dim == 0):
            raise ModelError(
                f"{source.all_spans[0].name} is loaded through {type(operation).__name__}, which cannot be "
                "done on disk: merge in memory and save the model instead"
            )
    return turned
