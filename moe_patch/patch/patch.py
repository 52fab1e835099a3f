"""What a patch is: changes to experts, the facts they stand for, and the base they belong to."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from pydantic import JsonValue
from rich.table import Table
from torch import Tensor

from moe_patch.data.facts import Fact, fact_json
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import ConfigError, WrongBase
from moe_patch.io.html_tables import Tabled
from moe_patch.io.installed import installed_versions
from moe_patch.io.wording import counted
from moe_patch.patch.base_record import base_json
from moe_patch.patch.controls import Controls
from moe_patch.patch.delta import LayerDelta, delta_from, delta_tensors
from moe_patch.patch.fingerprint import (
    TEMPLATE,
    TOKEN_PARTS,
    Fingerprint,
    differences,
    token_differences,
    touched_differences,
)
from moe_patch.patch.schema import Kind, Metadata, content_hash
from moe_patch.patch.shown import changes, facts_table

logger = logging.getLogger(__name__)

Shape = tuple[int, int, int]
"""(E, d_m, d_k) of one layer."""


def _tools() -> dict[str, str]:
    """The versions of what builds a patch."""
    return installed_versions("moe-patch", "torch", "transformers")


def _now() -> str:
    """The present in UTC to the second; or SOURCE_DATE_EPOCH, for builds that can be repeated.

    Raises:
        ConfigError: SOURCE_DATE_EPOCH is no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"SOURCE_DATE_EPOCH: expected a number of seconds since 1970, found {epoch!r}"
        ) from error
    return moment.isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False, repr=False)  # without slots, for the hash is kept
class Patch(Tabled):
    """A change to what one base says about a set of facts.

    `results` holds one JSON object for each fact, of what the build says about it, or nothing at all.
    `bypass` holds the tensors of a patch of kind "bypass", which has no `layers`. One of kind "prompt" has
    neither. `parents` are the hashes of the patches that this one was made from. `schema` is that of the file
    that the facts were read from. `controls` are what it should leave alone, as its build measured it; a
    patch that was made from others has none. A patch whose base has a fingerprint of format 1 can hold no
    controls, and no schema but "native". Two patches are the same if their hashes are.
    """

    kind: Kind
    method: str
    hyperparameters: dict[str, JsonValue]
    base: Fingerprint
    facts: tuple[Fact, ...]
    results: tuple[dict[str, JsonValue], ...]
    layers: dict[int, LayerDelta]
    tools: dict[str, str] = field(default_factory=_tools)
    created: str = field(default_factory=_now)
    parents: tuple[str, ...] = ()
    bypass: dict[str, Tensor] = field(default_factory=dict)
    schema: FactSchema = "native"
    controls: Controls | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything in the patch, as "sha256:..."; computed once, as patches do not change."""
        return content_hash(self.body(), self.tensors())

    def __repr__(self) -> str:
        facts = counted(len(self.facts), "fact")
        return f"Patch({self.method}, {facts}, {changes(self.kind, self.layers)}, {self.hash[:14]}...)"

    def tables(self) -> list[Table]:
        """The first facts, with what the model says with the patch."""
        return [facts_table(repr(self), self.facts, self.results)]

    @property
    def chat(self) -> bool:
        """Whether its prompts were put under the tokenizer's chat template when it was built."""
        return bool(self._target_options.get("chat"))

    @property
    def stop(self) -> bool:
        """Whether the end of its answers was trained too, as its options say."""
        return bool(self._target_options.get("stop"))

    @property
    def edits_last_token(self) -> bool:
        """Whether it edits facts at the last token of their prompts, and so needs no subjects."""
        return self._target_options.get("fact_token") == "last"

    @property
    def _target_options(self) -> Mapping[str, JsonValue]:
        targets = self.hyperparameters.get("targets")
        return targets if isinstance(targets, dict) else self.hyperparameters

    def body(self) -> dict[str, JsonValue]:
        """The metadata of the patch but for its hash, as the file has it."""
        body: dict[str, JsonValue] = {
            "format": self.base.format,
            "kind": self.kind,
            "method": self.method,
            "hyperparameters": self.hyperparameters,
            "base": base_json(self.base),
            "facts": [fact_json(fact) for fact in self.facts],
            "results": list(self.results),
            "layers": {str(layer): {"ridge": float(delta.ridge)} for layer, delta in self.layers.items()},
            "tools": dict(self.tools),
            "created": self.created,
            "parents": list(self.parents),
        }
        if self.base.format > 1:
            body["schema"] = self.schema
        if self.controls is not None:
            body["controls"] = self.controls.to_json()
        return body

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the patch by their names in the file, contiguous and on the CPU."""
        named: dict[str, Tensor] = {}
        for layer, delta in self.layers.items():
            named |= delta_tensors(layer, delta)
        named |= {f"bypass.{name}": tensor for name, tensor in self.bypass.items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def assemble_patch(metadata: Metadata, tensors: Mapping[str, Tensor]) -> Patch:
    """The patch that checked metadata and tensors describe."""
    facts = metadata.read_facts()
    layers = {
        int(layer): delta_from(int(layer), tensors, len(facts), record.ridge)
        for layer, record in metadata.layers.items()
    }
    return Patch(
        kind=metadata.kind,
        method=metadata.method,
        hyperparameters=metadata.hyperparameters,
        base=metadata.base.fingerprint(),
        facts=facts,
        results=tuple(metadata.results),
        layers=dict(sorted(layers.items())),
        tools=metadata.tools,
        created=metadata.created,
        parents=tuple(metadata.parents),
        bypass={
            name.removeprefix("bypass."): value
            for name, value in tensors.items()
            if name.startswith("bypass.")
        },
        schema=metadata.fact_schema or "native",
        controls=None if metadata.controls is None else metadata.controls.controls(),
    )


def check_base(patch: Patch, found: Fingerprint) -> None:
    """Raise WrongBase unless `found` fingerprints the base that the patch was built for.

    The message names everything that differs: architecture, config, sizes, the parts whose weights are
    others, and layers that the base does not have in the patch's sizes. `found` has to be of the patch's
    format, and to cover the layers that the patch edits. Where what tokens mean differs, that is logged, or
    refused for a patch that was built under another chat template.
    """
    _refuse([*differences(patch.base, found, patch.base.experts), *_misfits(patch, found.shapes)])
    if patch.base.format == 1:
        logger.warning(
            "patch %s is of format 1: only the down projections of its layers were compared with the model, "
            "and not its attention, norms, routers, embeddings or tokens",
            patch.hash,
        )
    _check_tokens(patch, found)


def check_touched(patch: Patch, found: Fingerprint) -> None:
    """As `check_base`, for a fingerprint without nodes: of the weights, only touched experts are compared."""
    _refuse([*touched_differences(patch.base, found, patch.base.experts), *_misfits(patch, found.shapes)])
    _check_tokens(patch, found)


def _check_tokens(patch: Patch, found: Fingerprint) -> None:
    unlike = token_differences(patch.base.tokens, found.tokens)
    if TEMPLATE in unlike and patch.chat:
        _refuse(["its chat template differs, and the patch was built under it"])
    if unlike:
        parts = ", ".join(TOKEN_PARTS[part] for part in unlike)
        logger.warning("patch %s was built with a tokenizer that differs in: %s", patch.hash, parts)


def check_shapes(patch: Patch, shapes: Mapping[int, Shape]) -> None:
    """The part of `check_base` that needs no weights: the base has the patch's layers, in the patch's sizes.

    Args:
        shapes: (E, d_m, d_k) by decoder index.

    Raises:
        WrongBase: a layer is missing or dense, or has other sizes or fewer experts than the patch changes.
    """
    _refuse(_misfits(patch, shapes))


def _misfits(patch: Patch, shapes: Mapping[int, Shape]) -> list[str]:
    """How the layers of the patch do not fit those of a base; what it says of them, and its own tensors."""
    found = []
    for layer in sorted(patch.base.experts.keys() | patch.layers.keys()):
        expected, delta = patch.base.shapes.get(layer), patch.layers.get(layer)
        if layer not in shapes:
            found.append(f"it has no experts in layer {layer}")
        elif expected not in (None, shapes[layer]):
            found.append(f"layer {layer} has the sizes (E, d_m, d_k) {shapes[layer]}, not {expected}")
        elif delta is not None and not _fits(delta, shapes[layer]):
            found.append(f"the tensors of layer {layer} do not fit its sizes {shapes[layer]}")
    return found


def _fits(delta: LayerDelta, shape: Shape) -> bool:
    num_experts, *widths = shape
    named = delta.experts()  # in ascending order
    return list(delta.widths) == widths and (not named or 0 <= named[0] <= named[-1] < num_experts)


def _refuse(differs: list[str]) -> None:
    if differs:
        raise WrongBase(
            f"the patch was built for another base than this model: {'; '.join(differs)}. "
            "Open the model that the patch was built on, unedited and of the same revision"
        )
