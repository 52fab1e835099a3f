"""What names a base model to a patch."""

from __future__ import annotations

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
