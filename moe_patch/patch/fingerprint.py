"""How a patch identifies its base model, and the comparison of two such fingerprints."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a base model to a patch that edits some of its layers.

    A hash is a SHA-256, written as "sha256:" and 64 hexadecimal digits.
    """

    model_type: str
    config: str  # hash of the settled config
    index: str  # hash of the shapes of all MoE layers
    experts: dict[int, str]  # by edited layer: hash of its down projections
    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # by edited layer: (E, d_m, d_k)


def differences(known: Fingerprint, other: Fingerprint, layers: Collection[int]) -> list[str]:
    """List in words how `other` differs from `known`; empty if both are fingerprints of one base.

    Args:
        layers: layers whose expert weights are compared. `known` must cover all of them. A layer that
            `other` does not cover counts as different.
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
    """Whether a layer's hashes agree, and also its shapes if both fingerprints have one."""
    shapes = {one.shapes[layer] for one in (known, other) if layer in one.shapes}
    return other.experts.get(layer) == known.experts[layer] and len(shapes) < 2
