"""What names a base model to a patch, and whether two such names are of one model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a base model to a patch that edits some of its layers.

    `config` is the SHA-256 of its settled config; `index` of the shapes of all its MoE layers. For each
    edited layer, `experts` is the SHA-256 of its down projections and `shapes` is (E, d_m, d_k). All hashes
    are "sha256:" and 64 hexadecimal digits.
    """

    model_type: str
    config: str
    index: str
    experts: dict[int, str]
    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)


def differences(known: Fingerprint, other: Fingerprint, layers: Collection[int]) -> list[str]:
    """What says that `other` is of another base than `known`, in words; nothing if it is the same base.

    Args:
        layers: whose expert weights to compare, all of them in `known`. One that `other` does not cover
            counts as different.
    """
    found = []
    if other.model_type != known.model_type:
        found.append(f"its architecture is {other.model_type}, not {known.model_type}")
    if other.index != known.index:
        found.append("its MoE layers have other numbers or sizes")
    if other.config != known.config:
        found.append("its config differs")
    changed = [str(layer) for layer in sorted(layers) if not _same_experts(known, other, layer)]
    if changed:
        noun = "layer" if len(changed) == 1 else "layers"
        found.append(f"the expert weights of {noun} {', '.join(changed)} differ")
    return found


def _same_experts(known: Fingerprint, other: Fingerprint, layer: int) -> bool:
    """Whether a layer's hashes agree, and its shapes where both state one."""
    shapes = {one.shapes[layer] for one in (known, other) if layer in one.shapes}
    return other.experts.get(layer) == known.experts[layer] and len(shapes) < 2
