"""What the model writes before and with a patch, for people to read: a few facts in three wordings each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.bench.along import evenly
from moe_patch.data.facts import Fact
from moe_patch.evaluation import Setting, patched
from moe_patch.evaluation.scoring import answer_text, continue_greedily
from moe_patch.patch import Patch

FACTS = 8
"""How many facts are shown."""

TOKENS = 16
"""How long each text is."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt with the model's words."""

    kind: Literal["fact", "paraphrase", "neighbour"]
    prompt: str
    wanted: str | None  # None for a neighbour, whose words should stay
    before: str
    after: str

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as plain data."""
        return asdict(self)


def before_and_after(
    base: Base,
    patch: Patch,
    facts: Sequence[Fact],
    setting: Setting,
) -> list[Shown]:
    """Have the model continue prompts, without the patch and with it; it is left as it was.

    Args:
        base: the model without the patch.
        patch: the patch.
        facts: of which a few are shown.
        setting: how prompts are run.

    Raises:
        MoePatchError: a prompt cannot be read, or the patch is of another base.
    """
    prompts = list(_prompts(evenly(facts, FACTS)))
    before = _written(base, [prompt for _, prompt, _ in prompts], setting)
    with patched(base, patch, setting, mode="hook", allow_large=True):
        after = _written(base, [setting.asked(prompt) for _, prompt, _ in prompts], setting)
    return [
        Shown(kind, prompt, wanted, was, now)
        for (kind, prompt, wanted), was, now in zip(prompts, before, after, strict=True)
    ]


def _prompts(
    facts: Sequence[Fact],
) -> Iterator[tuple[Literal["fact", "paraphrase", "neighbour"], str, str | None]]:
    for fact in facts:
        yield "fact", fact.text, fact.target_new
        for text in fact.paraphrases[:1]:
            yield "paraphrase", text, fact.target_new
        for text in fact.neighborhood[:1]:
            yield "neighbour", text, None


def _written(base: Base, prompts: Sequence[str], setting: Setting) -> list[str]:
    lengths = [TOKENS] * len(prompts)
    written = continue_greedily(
        base,
        prompts,
        lengths,
        batch_size=setting.batch_size,
        chat=setting.chat,
        progress=setting.progress,
        stage="texts",
    )
    return [answer_text(base, each) for each in written]
