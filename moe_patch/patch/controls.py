"""The controls of a patch: a few prompts that it should leave alone, with the base's own answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, JsonValue

from moe_patch.io.closed_schema import ClosedSchema

MOST = 64  # controls of a patch
LONGEST = 4096  # characters of a prompt or an answer


@dataclass(frozen=True, slots=True)
class Control:
    """A prompt, and the base's own answer to it."""

    prompt: str
    answer: str
    logprob: float  # mean log-probability of the answer's tokens to the base, natural logarithm


@dataclass(frozen=True, slots=True)
class Controls:
    """What a patch should leave alone, and how far it may move that.

    `bound` is the most by which the mean of the controls' log-probabilities may fall, in nats a token.
    """

    prompts: tuple[Control, ...]
    bound: float

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object of a file."""
        prompts: list[JsonValue] = [
            {"prompt": one.prompt, "answer": one.answer, "logprob": one.logprob} for one in self.prompts
        ]
        return {"prompts": prompts, "bound": self.bound}


def mean_fall(before: Sequence[float], after: Sequence[float]) -> float:
    """By how much the mean of log-probabilities has fallen; infinite if one is no number any more."""
    falls = [old - new for old, new in zip(before, after, strict=True)]
    mean = sum(falls) / len(falls)
    return math.inf if math.isnan(mean) else mean


class ControlRecord(ClosedSchema):
    """A control in a file."""

    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    answer: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    logprob: Annotated[float, Field(le=0, ge=-1e6)]


class ControlsRecord(ClosedSchema):
    """The controls in a file."""

    prompts: Annotated[list[ControlRecord], Field(min_length=1, max_length=MOST)]
    bound: Annotated[float, Field(ge=0, le=1e6)]

    def controls(self) -> Controls:
        """The controls that the record describes."""
        prompts = tuple(Control(one.prompt, one.answer, one.logprob) for one in self.prompts)
        return Controls(prompts, self.bound)
