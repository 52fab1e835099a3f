"""How a patch identifies its base model, and the comparison of two such fingerprints.

The weights are a tree of hashes. A leaf is one tensor's. A node is a part of the model: the embeddings, one
decoder layer, or the head. So a base that differs anywhere is another base, and the part that differs has a
name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EMBEDDINGS, HEAD, TOWERS = "embeddings", "head", "towers"
"""Nodes that are not decoder layers. The towers read images and sounds; a text model alone has none."""

TEMPLATE = "template"
"""The part of `Fingerprint.tokens` that is the chat template."""

TOKEN_PARTS = {
    "vocabulary": "vocabulary",
    "rules": "rules that cut text into tokens",
    "added": "added tokens",
    TEMPLATE: "chat template",
}
"""What can differ in what tokens mean, in words."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a base model to a patch that edits some of its layers.

    A hash is a SHA-256, written as "sha256:" and 64 hexadecimal digits. In a fingerprint of format 1, which
    has no `nodes`, the hash of a layer's down projections is `moe_patch.base.hashing.down_hash`.
    """

    model_type: str
    config: str  # hash of the settled config
    index: str  # hash of the shapes of all MoE layers
    experts: dict[int, str]  # by edited layer: the leaf of its down projections
    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # by edited layer: (E, d_m, d_k)
    nodes: dict[str, str] = field(default_factory=dict)  # of all parts, a layer's by its number
    tokens: dict[str, str] = field(default_factory=dict)  # hashes of `TOKEN_PARTS`; empty if not known

    @property
    def format(self) -> int:
        """1 if it covers the edited layers' down projections only, else 2."""
        return 2 if self.nodes else 1

    @property
    def root(self) -> str:
        """The hash of all that the base computes text with. Towers do not count."""
        return sha256_json(self.address() | {"tokens": {}})

    def address(self, layer: int | None = None) -> dict[str, Any]:
        """All that the base's own numbers depend on, as a JSON object: an address for what is kept of them.

        Args:
            layer: the numbers come from this layer, and so depend on the embeddings and the layers up to
                this one; None for all layers and the head.
        """
        wanted = self.nodes.keys() - {TOWERS}
        if layer is not None:
            wanted &= {EMBEDDINGS, *map(str, range(layer + 1))}
        return {
            "model_type": self.model_type,
            "config": self.config,
            "index": self.index,
            "nodes": {name: self.nodes[name] for name in wanted},
            "tokens": {part: kept for part, kept in self.tokens.items() if part != TEMPLATE},
        }


def sha256_json(value: object) -> str:
    """SHA-256, as "sha256:...", of a value as JSON with sorted keys, no white space, and ASCII only."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def differences(known: Fingerprint, other: Fingerprint, layers: Collection[int]) -> list[str]:
    """List in words how `other` differs from `known`; empty if both are fingerprints of one base.

    Args:
        layers: layers whose expert weights are compared. `known` must cover all of them. A layer that
            `other` does not cover counts as different.
    """
    if known.format != other.format:
        return ["one of the two fingerprints is of format 1, which cannot be compared with one of format 2"]
    found = touched_differences(known, other, layers)
    unlike = {
        name
        for name in (known.nodes.keys() | other.nodes.keys()) - {TOWERS}
        if known.nodes.get(name) != other.nodes.get(name)
    }
    if EMBEDDINGS in unlike:
        found.append("its embeddings differ")
    beside = {int(name) for name in unlike - {EMBEDDINGS, HEAD}} - _changed_experts(known, other, layers)
    if beside:
        found.append(f"attention, norms, routers or other weights of {_layers(beside)} differ")
    if HEAD in unlike:
        found.append("its last norm or its head differs")
    if len({one.nodes[TOWERS] for one in (known, other) if TOWERS in one.nodes}) > 1:
        found.append("its towers for images or sounds differ")
    return found


def touched_differences(known: Fingerprint, other: Fingerprint, layers: Collection[int]) -> list[str]:
    """As `differences`, but of the weights only the experts of `layers` are compared."""
    found = []
    if other.model_type != known.model_type:
        found.append(f"its architecture is {other.model_type}, not {known.model_type}")
    if other.index != known.index:
        found.append("its MoE layers have other numbers or sizes")
    if other.config != known.config:
        found.append("its config differs")
    if changed := _changed_experts(known, other, layers):
        found.append(f"the expert weights of {_layers(changed)} differ")
    return found


def token_differences(known: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The parts of what tokens mean, as keys of `TOKEN_PARTS`, that differ; parts not known are left out."""
    if not known or not other:
        return []
    return [part for part in TOKEN_PARTS if known.get(part) != other.get(part)]


def in_ranges(numbers: Iterable[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _changed_experts(known: Fingerprint, other: Fingerprint, layers: Collection[int]) -> set[int]:
    return {layer for layer in layers if not _same_experts(known, other, layer)}


def _same_experts(known: Fingerprint, other: Fingerprint, layer: int) -> bool:
    """Whether a layer's hashes agree, and also its shapes if both fingerprints have one."""
    shapes = {one.shapes[layer] for one in (known, other) if layer in one.shapes}
    return other.experts.get(layer) == known.experts[layer] and len(shapes) < 2


def _layers(numbers: Collection[int]) -> str:
    return f"layer{'' if len(numbers) == 1 else 's'} {in_ranges(numbers)}"
