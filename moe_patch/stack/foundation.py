"""The stack that a patch was built on, as its hyper-parameter `on` records it.

Residuals of the patch's own facts are relative to the bare base and include what the stack adds, so that all
facts can be solved together. In front of its own rows the patch has rows for the stack's facts. They cancel
the effect that the patch would have on these facts.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from moe_patch.errors import MalformedMetadata
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.patch import Patch
from moe_patch.patch.base_record import Layer, Sha256

KEY = "on"


class Foundation(ClosedSchema):
    """The stack below a patch: hashes of its patches, the lowest first, and the protected facts by layer."""

    patches: list[Sha256] = Field(default_factory=list)
    protected: dict[Layer, Annotated[int, Field(ge=0, lt=2**31)]] = Field(default_factory=dict)

    def protects(self, layer: int) -> int:
        """How many of a layer's left factors, counted from the first, belong to facts of the stack."""
        return self.protected.get(str(layer), 0)

    def to_json(self) -> dict[str, Any]:
        """The value of the hyper-parameter."""
        return self.model_dump(mode="json")


def foundation_of(patch: Patch) -> Foundation:
    """The stack that a patch was built on; empty for the bare base.

    Raises:
        MalformedMetadata: the hyper-parameter `on` is malformed.
    """
    try:
        return Foundation.model_validate(patch.hyperparameters.get(KEY) or {})
    except ValidationError as error:
        raise MalformedMetadata(f"hyperparameters.{KEY}.{strict_json.first_complaint(error)}") from error
