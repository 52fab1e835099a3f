"""What a file says of the base that a patch was built for: the schema of a fingerprint.

No torch is imported here: lock files of stacks have such a record, and are listed without it.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from moe_patch.errors import PatchError
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.patch.fingerprint import TOKEN_PARTS, Fingerprint

MOST_EXPERTS, MOST_WIDTH = 2**14, 2**17
"""The largest sizes of a layer that a file may name; those of known models are a tenth of them."""


def _shape(sides: list[int]) -> list[int]:
    """Check a layer's sizes [E, d_m, d_k]: a width beyond reason would cost memory that the file does not."""
    num_experts, *widths = sides
    if not (1 <= num_experts <= MOST_EXPERTS and all(1 <= width <= MOST_WIDTH for width in widths)):
        raise ValueError(
            f"expected [E, d_m, d_k] of 1 to [{MOST_EXPERTS}, {MOST_WIDTH}, {MOST_WIDTH}], found {sides}"
        )
    return sides


Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Layer = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,5})$")]
Node = Annotated[str, Field(pattern=r"^(embeddings|head|towers|0|[1-9][0-9]{0,5})$")]
TokenPart = Annotated[str, Field(pattern=f"^({'|'.join(TOKEN_PARTS)})$")]
Shape = Annotated[list[int], Field(min_length=3, max_length=3), AfterValidator(_shape)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class BaseLayer(ClosedSchema):
    """An edited layer of the base: its shape [E, d_m, d_k] and the hash of its down projections."""

    shape: Shape
    experts: Sha256

    @property
    def sides(self) -> tuple[int, int, int]:
        """(E, d_m, d_k)."""
        num_experts, d_model, d_key = self.shape
        return num_experts, d_model, d_key


class BaseRecord(ClosedSchema):
    """The fingerprint of the base. `nodes` and `tokens` are those of format 2, and empty in format 1."""

    model_type: Name
    config: Sha256
    index: Sha256
    layers: dict[Layer, BaseLayer]
    nodes: dict[Node, Sha256] = Field(default_factory=dict)
    tokens: dict[TokenPart, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Check that nodes cover the whole model."""
        if self.nodes and not {"embeddings", "head", *self.layers} <= self.nodes.keys():
            raise ValueError("nodes: expected the embeddings, the head and every layer")
        if self.tokens and not self.nodes:
            raise ValueError("tokens: expected with nodes only")
        return self

    @property
    def format(self) -> int:
        """The format version of files with such a record."""
        return 2 if self.nodes else 1

    @classmethod
    def of(cls, base: Fingerprint) -> BaseRecord:
        """The record of a fingerprint.

        Raises:
            PatchError: the fingerprint lacks the shape of a layer.
        """
        return cls.model_validate(base_json(base))

    def fingerprint(self) -> Fingerprint:
        """The fingerprint that the record describes."""
        return Fingerprint(
            model_type=self.model_type,
            config=self.config,
            index=self.index,
            experts={int(layer): record.experts for layer, record in self.layers.items()},
            shapes={int(layer): record.sides for layer, record in self.layers.items()},
            nodes=dict(self.nodes),
            tokens=dict(self.tokens),
        )


def base_json(base: Fingerprint) -> dict[str, JsonValue]:
    """A fingerprint as the JSON object of a file, not checked against the schema.

    Raises:
        PatchError: the fingerprint lacks the shape of a layer.
    """
    if missing := sorted(base.experts.keys() - base.shapes.keys()):
        raise PatchError(f"the fingerprint of the base has no shape (E, d_m, d_k) for layer {missing[0]}")
    layers: dict[str, JsonValue] = {
        str(layer): {"experts": experts, "shape": list(base.shapes[layer])}
        for layer, experts in base.experts.items()
    }
    named: dict[str, JsonValue] = {
        "model_type": base.model_type,
        "config": base.config,
        "index": base.index,
        "layers": layers,
    }
    if base.format > 1:
        named |= {"nodes": dict(base.nodes), "tokens": dict(base.tokens)}
    return named
