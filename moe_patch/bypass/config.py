"""The config of a bypass: a closed schema, stored among a patch's hyper-parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moe_patch.io.closed_schema import ClosedSchema

RouterStates = Literal["block-input", "final"]
"""What the router reads: the block's input, or the last hidden states of the model without the bypass."""

RouterKind = Literal["dual-attention", "published", "mlp"]
"""`dual-attention` is this project's form of MEMoE's router, and `published` is the paper's."""

Merge = Literal["hard", "weighted", "soft"]
"""How experts become one output: the likeliest alone, the likeliest by their probabilities, or the output of
one expert whose weights are the mean of all experts' weights by probability."""

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
    alpha: Factor = Field(1.0, description="Weight of A; where the published router's starts.")
    beta: Factor = Field(1.0, description="Weight of A^; where the published router's starts.")
    merge: Merge = "hard"
    top_k: int = Field(1, ge=1, le=MOST_EXPERTS, description="How many experts a prompt's output is of.")
    attention_width: int | None = Field(
        None, ge=1, le=WIDEST, description="Width of the published router's W_q, W_k, W_v; null: d_m."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        check_merge(self.merge, self.top_k, self.experts)
        if self.attention_width is not None and self.router != "published":
            raise ValueError(f"attention_width is for the published router, and the router is {self.router}")
        return self

    @property
    def routes(self) -> int:
        """How many routes a prompt can take: one for each expert, and the scope gate's if there is one."""
        return self.experts + self.scope_gate

    @property
    def attended(self) -> int:
        """The width of the published router's queries, keys and values."""
        return self.attention_width or self.width

    def to_json(self) -> dict[str, Any]:
        """The fields as a file has them.

        Those that only some bypasses use are left out of the others' files, which then are what they were
        before there were such fields: the schema is closed, and older code reads them too.
        """
        fields = self.model_dump(mode="json")
        unsaid = {name for name in _SELDOM if fields[name] == type(self).model_fields[name].default}
        return {name: value for name, value in fields.items() if name not in unsaid}


_SELDOM = ("merge", "top_k", "attention_width")


def check_merge(merge: Merge, top_k: int, experts: int) -> None:
    """Whether these go together.

    Raises:
        ValueError: there are fewer experts than are to be chosen, or the merge takes no choice of several.
    """
    if top_k > experts:
        raise ValueError(f"top_k is {top_k}, but there are {experts} experts: lower top_k")
    if top_k > 1 and merge != "weighted":
        taken = "the likeliest expert alone" if merge == "hard" else "all experts"
        raise ValueError(
            f"top_k is {top_k}, but merge {merge!r} takes {taken}: set merge to 'weighted', or top_k to 1"
        )
