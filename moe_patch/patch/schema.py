"""The schema of a patch's metadata, which is one canonical JSON object; and the content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator
from torch import Tensor

from moe_patch.data.facts import Fact, FactRecord
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import FactError, MalformedMetadata, UnknownFormat
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.ranges import LARGEST_NUMBER, JsonObject, Label
from moe_patch.patch.base_record import BaseRecord, Layer, Name, Sha256
from moe_patch.patch.controls import ControlsRecord
from moe_patch.patch.header import DTYPES

FORMATS = (1, 2)
METADATA_KEY = "moe_patch"

Kind = Literal["delta", "bypass", "prompt"]
"""What a patch changes: weights of experts, what runs beside a layer, or the prompts that are asked alone."""


def _moment(text: str) -> str:
    """Check an ISO 8601 date and time, which must contain its offset from UTC."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time with its offset from UTC, such as 2026-01-31T12:00:00+00:00")
    return text


Moment = Annotated[str, AfterValidator(_moment)]
Ridge = Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]
Facts = Annotated[list[FactRecord], Field(max_length=2**20)]
Result = Annotated[JsonObject, Field(max_length=64)]
Tools = Annotated[dict[Name, Label], Field(max_length=64)]


class LayerRecord(ClosedSchema):
    """What a patch stores of an edited layer besides its tensors."""

    ridge: Ridge


class Metadata(ClosedSchema):
    """Everything in a patch file that is not a tensor."""

    format: Literal[1, 2]
    kind: Kind
    method: Name
    hyperparameters: JsonObject
    base: BaseRecord
    facts: Facts
    results: list[Result]
    layers: dict[Layer, LayerRecord]
    tools: Tools
    created: Moment
    parents: Annotated[list[Sha256], Field(max_length=10_000)]
    hash: Sha256
    fact_schema: FactSchema | None = Field(default=None, alias="schema")  # none in format 1
    controls: ControlsRecord | None = None  # none in format 1

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Check the fields against each other."""
        ids = [record.id for record in self.facts]
        if len(set(ids)) < len(ids):
            raise ValueError("facts: expected every id once")
        if self.results and len(self.results) != len(self.facts):
            raise ValueError(f"results: expected one for each of {len(self.facts)} facts, or none at all")
        if (self.format == 1) != (self.base.format == 1):
            raise ValueError("base.nodes: expected in every format but 1")
        if (self.format == 1) != (self.fact_schema is None):
            raise ValueError("schema: expected in every format but 1")
        if self.format == 1 and self.controls is not None:
            raise ValueError("controls: not expected in format 1")
        if self.kind == "delta" and self.layers.keys() != self.base.layers.keys():
            raise ValueError("base.layers: expected the layers that the patch edits, no more and no fewer")
        if bool(self.layers) != (self.kind == "delta"):
            raise ValueError(f"layers: found {len(self.layers)} in a patch of kind {self.kind}")
        if self.kind == "prompt" and (self.format == 1 or self.base.layers):
            raise ValueError("kind: a patch of kind prompt has no layers of its base, and is not of format 1")
        return self

    def read_facts(self) -> tuple[Fact, ...]:
        """The facts.

        Raises:
            MalformedMetadata: a record is not a valid fact. The message gives its number and the field.
        """
        facts = []
        for number, record in enumerate(self.facts):
            try:
                facts.append(record.fact())
            except FactError as error:
                raise MalformedMetadata(f"facts.{number}.{error}") from error
        return tuple(facts)


def parse_metadata(texts: Mapping[str, str]) -> Metadata:
    """The metadata of a patch from the text metadata of its file.

    Whether the text is canonical JSON is not checked here; `load` compares it with its canonical form.

    Raises:
        UnknownFormat: the format version is not among `FORMATS`.
        MalformedMetadata: the text is missing, is not strict JSON or does not follow the schema.
    """
    if texts.keys() != {METADATA_KEY}:
        found = ", ".join(sorted(texts)) or "nothing"
        raise MalformedMetadata(
            f"not a moe-patch file: expected {METADATA_KEY} in __metadata__, found {found}"
        )
    try:
        value = strict_json.parse_json(texts[METADATA_KEY])
    except ValueError as error:
        raise MalformedMetadata(f"the metadata is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedMetadata(f"expected a JSON object, found {strict_json.describe_json(value)}")
    version = value.get("format")
    if type(version) is not int or version not in FORMATS:
        known = " or ".join(map(str, FORMATS))
        raise UnknownFormat(f"expected format version {known}, found {version!r}: use a newer moe-patch")
    try:
        return Metadata.model_validate(value)
    except ValidationError as error:
        raise MalformedMetadata(strict_json.first_complaint(error)) from error


def content_hash(body: Mapping[str, JsonValue], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the metadata without its hash, and over every tensor's name, dtype, shape and bytes.

    Args:
        body: the metadata; a `hash` in it is ignored.
        tensors: CPU tensors in the dtypes of `DTYPES`, by name.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    listing: dict[str, JsonValue] = {}
    for name, tensor in tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        digest = hashlib.sha256(raw.data).hexdigest()
        listing[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "sha256": digest}
    covered: dict[str, JsonValue] = {key: value for key, value in body.items() if key != "hash"}
    text = strict_json.canonical_json({"metadata": covered, "tensors": listing})
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
