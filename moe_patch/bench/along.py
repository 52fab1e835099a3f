"""Scores and routing along a build: the model is asked after some numbers of edited facts.

In the end most neighbours of a small world are edited themselves, and such a neighbour is hardly preserved.
`untouched` figures are therefore for neighbourhood prompts about subjects that no fact so far is about.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moe_patch.base.model import Base
from moe_patch.data.fact_file import FactFile, schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.data.spacing import spaced
from moe_patch.evaluation import Questions, Scores, Setting, compare_routing, measure_scores, record_routing
from moe_patch.evaluation.metrics import own_answers
from moe_patch.evaluation.routing import Routing
from moe_patch.evaluation.scoring import Encoded

EDITED = "facts edited"
"""The stage under which methods report that a batch of facts is on the model."""

FIGURES = (
    "efficacy",
    "generalization",
    "specificity",
    "untouched_specificity",
    "routing",
    "untouched_routing",
)
"""What is measured: percentages; the last two are routing similarity on neighbourhood prompts."""


def some_counts(total: int, batch_size: int, most: int = 5) -> list[int]:
    """At most `most` numbers of facts, evenly spaced, up to all: multiples of the batch size, and the end."""
    ends = [*range(batch_size, total, batch_size), total]
    step = max(1, -(-len(ends) // most))
    return ends[::-1][::step][::-1]


def at_batch_ends(counts: Sequence[int], total: int, batch_size: int) -> list[int]:
    """The ends of the batches that the counts lie in; those beyond the facts are left out."""
    ends = {min(total, -(-count // batch_size) * batch_size) for count in counts if count <= total}
    return sorted(ends)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What the model is asked, with the bare base's answers on neighborhood prompts and its routing there."""

    questions: Questions
    own: list[Encoded]
    routing: Routing | None

    @classmethod
    def of(cls, base: Base, facts: Sequence[Fact], schema: FactSchema, setting: Setting) -> _Asked:
        """Ask a base without deltas."""
        questions = Questions.about(facts, schema=schema)
        own = own_answers(base, questions.neighbours, setting, "along: own answers")
        return cls(questions, own, _routing(base, questions, setting))

    def figures(self, base: Base, setting: Setting, lowest: int) -> tuple[Scores, float | None]:
        """The scores, and the similarity of the routing in percent."""
        scores = measure_scores(base, self.questions, setting, stage="along", own=self.own).scores
        now = None if self.routing is None else _routing(base, self.questions, setting)
        if self.routing is None or now is None:
            return scores, None
        return scores, compare_routing(self.routing, now, lowest).similarity


def _routing(base: Base, questions: Questions, setting: Setting) -> Routing | None:
    prompts = [question.prompt for question in questions.neighbours]
    if not prompts or not base.layers:
        return None
    return record_routing(base, prompts, batch_size=setting.batch_size, chat=setting.chat)


class Along:
    """A progress function that measures the model during a build, while what is built so far is on it.

    Args:
        base: the bare model.
        facts: all that the build edits, in order.
        at: numbers of edited facts after which to ask, as methods report them.
        asked: how many of the facts edited so far are asked about, evenly spaced.
        setting: how prompts are run.
        lowest: the lowest edited layer; routing cannot change up to it.
    """

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        *,
        at: Sequence[int],
        asked: int,
        setting: Setting,
        lowest: int,
    ) -> None:
        self._base, self._setting, self._lowest = base, setting, lowest
        self.seconds = 0.0  # that measuring took
        self.curve: list[dict[str, float | None]] = []
        schema = schema_of_facts(facts)
        some = {count: evenly(facts[:count], asked) for count in at}
        self._asked = {
            count: [
                _Asked.of(base, asking, schema, setting)
                for asking in (some[count], untouched(some[count], facts[:count]))
            ]
            for count in at
        }

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called as the methods' progress function."""
        if stage != EDITED or done not in self._asked:
            return
        started = time.perf_counter()
        (scores, routing), (others, elsewhere) = (
            asked.figures(self._base, self._setting, self._lowest) for asked in self._asked[done]
        )
        values = [scores.efficacy, scores.generalization, scores.specificity, others.specificity]
        figures: list[float | None] = [*(value.value for value in values), routing, elsewhere]
        self.curve.append({"facts": done, **dict(zip(FIGURES, figures, strict=True))})
        self.seconds += time.perf_counter() - started


def untouched(asked: Sequence[Fact], edited: Sequence[Fact]) -> list[Fact]:
    """The facts to ask about, with only those neighbours that do not mention an edited subject."""
    subjects = re.compile("|".join(rf"(?<!\w){re.escape(fact.subject)}(?!\w)" for fact in edited))
    return [_with_neighbours(fact, lambda text: not subjects.search(text)) for fact in asked]


def _with_neighbours(fact: Fact, wanted: Callable[[str], object]) -> Fact:
    """The fact with some of its neighborhood prompts, and their answers if they have any."""
    kept = [number for number, text in enumerate(fact.neighborhood) if wanted(text)]
    return replace(
        fact,
        neighborhood=tuple(fact.neighborhood[number] for number in kept),
        neighborhood_answers=tuple(
            fact.neighborhood_answers[number] for number in kept if fact.neighborhood_answers
        ),
    )


def evenly(facts: Sequence[Fact], count: int) -> Sequence[Fact]:
    """At most `count` of the facts, evenly spaced; a file of facts stays one."""
    if len(facts) <= count:
        return facts
    some = tuple(spaced(facts, count))
    return FactFile(some, (), facts.schema) if isinstance(facts, FactFile) else some
