"""What a patch that was built on top of a stack says of it, among its hyper-parameters under `on`.

Its own facts' residuals count from the bare base, what the stack adds included, so that all can be solved
together. Of the stack's facts it holds rows, in front of its own, which cancel what it would do to them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from moe_patch.errors import MalformedMetadata
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.patch import Patch
from moe_patch.patch.schema import Layer, Sha256

KEY = "on"


class Foundation(ClosedSchema):
    """The stack beneath: hashes of its patches, the lowest first, and how many facts each layer protects."""

    patches: list[Sha256] = Field(default_factory=list)
    protected: dict[Layer, int] = Field(default_factory=dict)

    def protects(self, layer: int) -> int:
        """How many left factors of a layer, the first ones, are of facts of the stack."""
        return self.protected.get(str(layer), 0)

    def to_json(self) -> dict[str, Any]:
        """The value of the hyper-parameter."""
        return self.model_dump(mode="json")


def foundation_of(patch: Patch) -> Foundation:
    """The stack that a patch was built on, empty for the bare base; else MalformedMetadata."""
    try:
        return Foundation.model_validate(patch.hyperparameters.get(KEY) or {})
    except ValidationError as error:
        raise MalformedMetadata(f"hyperparameters.{KEY}.{strict_json.first_complaint(error)}") from error
