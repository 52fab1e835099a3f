"""The config of a bypass: a closed schema, stored among a patch's hyper-parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moe_patch.io.closed_schema import ClosedSchema

RouterStates = Literal["block-input", "final"]
"""What the router reads: the block's input, or the last hidden states of the model without the bypass."""

RouterKind = Literal["dual-attention", "mlp"]

Tokens = Literal["all", "last"]
"""The tokens of a prompt on which its expert acts: all, or only the last. It acts on all generated ones."""

MOST_EXPERTS = 256
WIDEST = 2**20
LARGEST_FACTOR = 1e6

Factor = Annotated[float, Field(ge=-LARGEST_FACTOR, le=LARGEST_FACTOR, allow_inf_nan=False)]


class BypassConfig(ClosedSchema):
    """Sizes and switches of a bypass."""

    layer: int = Field(ge=0, lt=10**6, description="The decoder layer that it is beside.")
    width: int = Field(ge=1, le=WIDEST, description="Width of the residual stream, d_m.")
    experts: int = Field(ge=1, le=MOST_EXPERTS, description="How many experts there are, n.")
    expert_width: int = Field(ge=1, le=WIDEST, description="Inner width of an expert, d_e.")
    adapter_width: int = Field(ge=1, le=WIDEST, description="Inner width of the router's adapter, d_a.")
    router: RouterKind = "dual-attention"
    router_states: RouterStates = "block-input"
    tokens: Tokens = "all"
    scope_gate: bool = Field(True, description="Whether there is a route that leaves a prompt alone.")
    scale: Factor = Field(1.0, ge=0, description="lambda.")
    alpha: Factor = Field(1.0, description="Weight of A.")
    beta: Factor = Field(1.0, description="Weight of A^.")

    @property
    def routes(self) -> int:
        """How many routes a prompt can take: one for each expert, and the scope gate's if there is one."""
        return self.experts + self.scope_gate
