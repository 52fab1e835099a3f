"""MEMoE's options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from moe_patch.bypass import BypassConfig
from moe_patch.bypass.config import (
    MOST_EXPERTS,
    WIDEST,
    Factor,
    Merge,
    RouterKind,
    RouterStates,
    Tokens,
    check_merge,
)
from moe_patch.data.prompts import PromptStyle
from moe_patch.methods.base import MethodOptions
from moe_patch.methods.corpus_option import CORPUS_HELP, CorpusOption


def _one_layer(value: Any) -> Any:
    """The layer of a list of one layer, so that --layers works here too."""
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise ValueError(f"a bypass runs beside one layer, not {len(value)}")
        return value[0]
    return value


RATE = 0.04
"""The learning rate in units of the size of a weight at the start, which is the root of 1 / d_m."""

BalanceForm = Literal["penalty", "published"]
"""The balance term: added, on preserved prompts; or subtracted, on the facts' own answers, as published."""

Sizes = Literal["equal", "soft"]
"""The clusters of the division: of equal size, or held together by a penalty, as published."""

_LOSSES = ("adaptive", "balance", "router_loss")
"""The parts of MEMoE's losses, which its ablation without them replaces by plain cross entropy."""

Layer = Annotated[int | None, BeforeValidator(_one_layer)]


class MEMoEOptions(MethodOptions):
    """Options of MEMoE. Defaults are the paper's if it has one that means the same on every model.

    What else differs from the paper by default has a value that does not: `router` and `balance_form`
    "published", `division_sizes` "soft", `merge` "weighted", `router_states` "final", no scope gate and no
    replay. docs/published.md compares line by line.
    """

    layer: Layer = Field(None, description="The decoder layer that the bypass runs beside.")
    experts: int = Field(5, ge=1, le=MOST_EXPERTS, description="How many experts, n.")
    expert_width: int = Field(64, ge=1, le=WIDEST, description="Inner width of an expert.")
    adapter_width: int = Field(64, ge=1, le=WIDEST, description="Inner width of the router's adapter.")
    scale: Factor | None = Field(
        None,
        gt=0,
        description="lambda, the factor of an expert's output; unset: a coordinate's size in the stream.",
    )
    alpha: Factor = Field(1.0, description="Weight of A; where the published router's starts to learn.")
    beta: Factor = Field(1.0, description="Weight of A^; where the published router's starts to learn.")
    attention_width: int | None = Field(
        None,
        ge=1,
        le=WIDEST,
        description="Width of the published router's W_q, W_k and W_v; unset: the stream's.",
    )
    merge: Merge = Field(
        "hard",
        description="The likeliest expert alone, the top_k by probability, or all experts' weights in one.",
    )
    top_k: int = Field(1, ge=1, le=MOST_EXPERTS, description="How many experts are merged by probability.")
    router_states: RouterStates = Field("block-input", description="Hidden states that the router reads.")
    tokens: Tokens = Field("all", description="Prompt tokens that go through the expert: all, or the last.")
    scope_gate: bool = Field(True, description="Leave prompts alone that are outside of every edit's scope.")
    first_share: float = Field(0.3, ge=0, le=1, description="p, the share of facts for the first expert.")
    division_sizes: Sizes = Field("equal", description="Clusters of equal size, or softly held to it.")
    size_weight: float = Field(1.0, ge=0, le=1e6, description="Price of unequal sizes in a soft division.")
    tau: float = Field(0.6, description="GECE rank at which the adaptive weight is a half.")
    gamma_1: float = Field(1.0, ge=0, description="Steepness of the adaptive weight.")
    gamma_2: float = Field(0.5, ge=0, description="Steepness of the balance coefficient.")
    gamma_3: float = Field(1.5, ge=0, description="Exponent of the focal router guidance.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1e30,
        description=f"AdamW's highest learning rate; unset: {RATE:g} by the root of the stream's width.",
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate rises.")
    steps: int = Field(100, ge=1, description="Steps for each batch of facts.")
    batch_size: int | None = Field(None, ge=1, description="Facts learned together; unset: all of them.")
    facts_per_step: int = Field(32, ge=1, description="New facts in a step.")
    replay: int = Field(32, ge=0, description="Facts of earlier batches in a step.")
    balance_prompts: int = Field(16, ge=1, description="Preserved prompts in a step's balance term.")
    variants: int = Field(
        12, ge=0, description="Generated prompts for each fact: about its subject, and as many about others."
    )
    per_step: int = Field(2, ge=0, description="Generated prompts of each kind for each fact in a step.")
    preserved: int = Field(512, ge=1, description="Prompts drawn from preserved text.")
    corpus: CorpusOption = Field(None, description=CORPUS_HELP)
    corpus_tokens: int = Field(100_000, ge=1, description="Most tokens of mixed text to read.")
    language: str = Field("en", description="Language of the facts, for word frequencies and stems.")
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")
    start: Path | None = Field(None, description="A MEMoE patch to continue from; its facts are replayed.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random choices.")
    single: bool = Field(False, description="Ablation: one adapter as wide as all experts together.")
    division: bool = Field(True, description="Divide facts by knowledge frequency; off: in turn.")
    router: RouterKind = Field(
        "dual-attention", description="The router: our form, the paper's, or mlp, an ablation."
    )
    plain: bool = Field(
        False, strict=True, description="Ablation as published: plain cross entropy for all three losses."
    )
    adaptive: bool = Field(True, description="Weight the cross entropy by knowledge frequency.")
    balance: bool = Field(True, description="Keep the edited model close to the unedited one.")
    balance_form: BalanceForm = Field(
        "penalty", description="The balance term: a penalty on preserved prompts, or as published."
    )
    router_loss: bool = Field(True, description="Train the router to choose the assigned experts.")

    @model_validator(mode="before")
    @classmethod
    def _plain_turns_losses_off(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("plain") is not True:
            return values
        if still := [name for name in (*_LOSSES, "scope_gate") if values.get(name, name == "scope_gate")]:
            raise ValueError(
                f"plain cross entropy takes the place of every other loss: set {', '.join(still)} to false"
            )
        return values | dict.fromkeys(_LOSSES, False)

    @model_validator(mode="after")
    def _merged(self) -> MEMoEOptions:
        check_merge(self.merge, self.top_k, 1 if self.single else self.experts)
        if self.attention_width is not None and self.router != "published":
            raise ValueError(f"attention_width is for router 'published', and the router is {self.router!r}")
        return self

    @model_validator(mode="after")
    def _one_expert(self) -> MEMoEOptions:
        if self.single and not self.router_loss:
            raise ValueError("a single adapter needs the router loss: leave router_loss on")
        if self.single and self.experts * self.expert_width > WIDEST:
            raise ValueError(f"a single adapter may be {WIDEST} wide: lower experts or expert_width")
        return self

    @property
    def style(self) -> PromptStyle:
        """How facts become text."""
        return PromptStyle(self.chat, "last")

    @property
    def needs_text(self) -> bool:
        """Whether preserved text is used."""
        return self.scope_gate or self.balances_preserved

    @property
    def balances_preserved(self) -> bool:
        """Whether the balance term is taken on preserved prompts."""
        return self.balance and self.balance_form == "penalty"

    @property
    def balances_answers(self) -> bool:
        """Whether the balance term is the published one, on the facts' own answers."""
        return self.balance and self.balance_form == "published"

    @property
    def soft_division(self) -> float | None:
        """The price of unequal sizes; None if the division's clusters have equal sizes."""
        return self.size_weight if self.division_sizes == "soft" else None

    @property
    def needs_frequency(self) -> bool:
        """Whether knowledge frequency is used."""
        return (self.division and not self.single) or self.adaptive or self.balance

    def rate(self, width: int) -> float:
        """AdamW's highest learning rate, for a stream of this width."""
        return RATE / math.sqrt(width) if self.learning_rate is None else self.learning_rate

    def config(self, layer: int, width: int, scale: float) -> BypassConfig:
        """The bypass that these options describe, whose experts' outputs are multiplied by `scale`."""
        return BypassConfig(
            layer=layer,
            width=width,
            experts=1 if self.single else self.experts,
            expert_width=self.expert_width * (self.experts if self.single else 1),
            adapter_width=self.adapter_width,
            router=self.router,
            router_states=self.router_states,
            tokens=self.tokens,
            scope_gate=self.scope_gate,
            scale=scale,
            alpha=self.alpha,
            beta=self.beta,
            merge=self.merge,
            top_k=self.top_k,
            attention_width=self.attention_width,
        )
