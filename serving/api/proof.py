"""What a changed server has to show before clients are answered: new facts, and old answers that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from moe_patch.data.reader import Reading
from moe_patch.errors import ConfigError
from moe_patch.patch import Patch
from moe_patch.patch.controls import mean_fall
from moe_patch_serving.api.engine import Engine
from moe_patch_serving.api.self_test import DEFAULT, Answer, Question, SelfTest, ask_questions


@dataclass(frozen=True, slots=True)
class Held:
    """The controls of one patch in tokens, and the most by which their mean log-probability may fall."""

    controls: tuple[Reading, ...]
    limit: float  # nats a token

    async def measure(self, engine: Engine) -> list[float]:
        """The mean log-probability of each control's answer, as the server is now."""
        asked = (engine.likelihood(control.ids, control.first) for control in self.controls)
        return list(await asyncio.gather(*asked))


@dataclass(frozen=True, slots=True)
class Fall:
    """By how much controls have fallen, in nats a token, and how much would have been accepted."""

    controls: int
    fall: float
    limit: float

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object for clients."""
        return {"controls": self.controls, "fall": round(self.fall, 6), "limit": self.limit}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a server showed."""

    answers: list[Answer] = field(default_factory=list)
    falls: list[Fall] = field(default_factory=list)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object for clients."""
        asked: list[JsonValue] = [asdict(answer) for answer in self.answers]
        right = sum(answer.right for answer in self.answers)
        moved: list[JsonValue] = [fall.to_json() for fall in self.falls]
        return {"asked": len(asked), "right": right, "answers": asked, "moved": moved}


@dataclass(frozen=True, slots=True)
class Proof:
    """The questions that a change is asked, and the controls that it should leave alone."""

    questions: Sequence[Question] = ()
    held: Sequence[Held] = ()
    test: SelfTest = DEFAULT

    async def before(self, engine: Engine) -> list[list[float]]:
        """How likely the controls' answers are to the server before the change."""
        return [await held.measure(engine) for held in self.held]

    async def after(self, engine: Engine, before: Sequence[Sequence[float]]) -> Findings:
        """What the changed server shows."""
        answers = await ask_questions(engine, self.questions)
        falls = [
            Fall(len(old), mean_fall(old, await held.measure(engine)), held.limit)
            for held, old in zip(self.held, before, strict=True)
        ]
        return Findings(answers, falls)

    def complaint(self, found: Findings) -> str:
        """Why the findings are no proof; empty if they are one."""
        if not self.test.passed(found.answers):
            right = sum(answer.right for answer in found.answers)
            share = f"{self.test.share:.0%} were asked for"
            return f"the server said {right} of {len(found.answers)} facts, and {share}"
        for fall in found.falls:
            if not fall.fall <= fall.limit:
                return (
                    f"answers that should stay became less likely by {fall.fall:.3g} nats a token, and "
                    f"{fall.limit:.3g} is the most that is accepted"
                )
        return ""


NO_PROOF = Proof()
"""That of a change that adds nothing."""


def proof_for(engine: Engine, patches: Sequence[Patch], test: SelfTest, ceiling: float) -> Proof:
    """What a server has to show that gets these patches.

    Args:
        engine: whose tokens are asked.
        patches: that are added.
        test: how many facts are asked.
        ceiling: the most by which controls may fall, whatever a patch says of itself.

    Raises:
        ConfigError: a question is too long for the server.
        PromptError: as for `Reader.read_answer`.
        TargetError: a fact's answer has no tokens.
        Unproved: a patch has nothing to ask.
    """
    reader = engine.reader
    questions = [question for patch in patches for question in test.questions(reader, patch)]
    for question in questions:
        _check_room(engine, f"fact {question.fact.id}", len(question.prompt) + len(question.wanted))
    held = []
    for patch in patches:
        if patch.controls is not None:
            readings = tuple(
                reader.read_answer(control.prompt, control.answer, chat=patch.chat)
                for control in patch.controls.prompts
            )
            for reading in readings:
                _check_room(engine, f"a control of {patch.hash}", len(reading.ids))
            held.append(Held(readings, min(patch.controls.bound, ceiling)))
    return Proof(questions, held, test)


def _check_room(engine: Engine, what: str, length: int) -> None:
    if length > engine.room:
        raise ConfigError(
            f"{what}: with its answer it is {length} tokens long, and this server has room for "
            f"{engine.room}: start it with --max-model-len {length} or more"
        )
