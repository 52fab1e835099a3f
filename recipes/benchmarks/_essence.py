"""What becomes of everything else that the demo model knows about edited subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation.metrics import Questions, Score, Setting, own_answers, unchanged_score
from moe_patch.evaluation.scoring import Encoded, score_answers
from recipes.training.world import PHRASINGS, Triple, read_world

RELATION_OF = {phrasing: relation for relation, group in PHRASINGS.items() for phrasing in group}


@dataclass(frozen=True, slots=True)
class OtherRelations:
    """Prompts about edited subjects that ask another relation than the edited one, and what the base says.

    A model may change its answer for a reason: a town that is now said to lie in South Korea pays with the
    Won. `implied` has, for each prompt, what is true of some subject of which the edit's new answer is true,
    unless it is what the base says.
    """

    questions: Questions
    own: list[Encoded]
    implied: tuple[tuple[str, str], ...]  # prompts and answers, several or none for a prompt

    @classmethod
    def of(cls, base: Base, facts: Sequence[Fact], setting: Setting) -> OtherRelations | None:
        """Asked of a base that has no patch on; None where the demo model's world lacks the subjects."""
        asked: list[Fact] = []
        implied: list[tuple[str, str]] = []
        world = _World(read_world())
        for fact in facts:
            edited = RELATION_OF.get(fact.prompt)
            for triple in world.about[fact.subject]:
                if edited is None or triple.relation == edited:
                    continue
                prompts = tuple(triple.prompts(held_out=False))
                asked.append(replace(fact, target_true=triple.answer, paraphrases=(), neighborhood=prompts))
                others = world.answers(triple.relation, among=(edited, fact.target_new)) - {triple.answer}
                implied += [(prompt, other) for prompt in prompts for other in sorted(others)]
        if not asked:
            return None
        questions = Questions.about(asked)
        own = own_answers(base, questions.neighbours, setting, "other relations: own answers")
        return cls(questions, own, tuple(implied))

    def without(self, prompts: Collection[str]) -> OtherRelations:
        """The same without some prompts."""
        left = [at for at, (prompt, _) in enumerate(self.questions.neighbours) if prompt not in prompts]
        neighbours = tuple(self.questions.neighbours[at] for at in left)
        implied = tuple((prompt, answer) for prompt, answer in self.implied if prompt not in prompts)
        questions = replace(self.questions, neighbours=neighbours)
        return OtherRelations(questions, [self.own[at] for at in left], implied)

    def kept(self, base: Base, setting: Setting) -> float | None:
        """Essence, in percent: on how many the model says all that the base said."""
        return unchanged_score(base, self.own, setting, "other relations").value

    def followed(self, base: Base, setting: Setting) -> float | None:
        """On how many, in percent, it says something else that the edit implies."""
        scores = score_answers(base, self.implied, batch_size=setting.batch_size)
        said = {prompt for (prompt, _), score in zip(self.implied, scores, strict=True) if score.exact}
        return Score.of(float(prompt in said) for prompt, _ in self.questions.neighbours).value


class _World:
    """What the demo model knows, by subject and by answer."""

    def __init__(self, triples: Sequence[Triple]) -> None:
        self.about: dict[str, list[Triple]] = defaultdict(list)
        self._of_whom: dict[tuple[str, str], list[str]] = defaultdict(list)  # subjects by relation and answer
        for triple in triples:
            self.about[triple.subject].append(triple)
            self._of_whom[triple.relation, triple.answer].append(triple.subject)

    def answers(self, relation: str, *, among: tuple[str, str]) -> set[str]:
        """What holds of the subjects of which `among`, another relation and its answer, holds."""
        found = (triple for subject in self._of_whom[among] for triple in self.about[subject])
        return {triple.answer for triple in found if triple.relation == relation}
