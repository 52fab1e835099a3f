"""What happens to the other things that the demo model knows about edited subjects."""

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
    """Prompts about edited subjects that ask for another relation than the edited one.

    A changed answer may follow from the edit: a town that is now in South Korea pays with the Won. Such an
    answer is true of some subject that the edit's new answer is true of.
    """

    questions: Questions
    own: list[Encoded]  # the base's answers
    implied: tuple[
        tuple[str, str], ...
    ]  # prompts with answers that follow from the edit, any number for each

    @classmethod
    def of(cls, base: Base, facts: Sequence[Fact], setting: Setting) -> OtherRelations | None:
        """Ask a base without a patch; None if the demo model's world does not have the subjects."""
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
        left = [at for at, asked in enumerate(self.questions.neighbours) if asked.prompt not in prompts]
        neighbours = tuple(self.questions.neighbours[at] for at in left)
        implied = tuple((prompt, answer) for prompt, answer in self.implied if prompt not in prompts)
        questions = replace(self.questions, neighbours=neighbours)
        return OtherRelations(questions, [self.own[at] for at in left], implied)

    def kept(self, base: Base, setting: Setting) -> float | None:
        """Essence: the percentage of prompts on which the model gives the base's whole answer."""
        return unchanged_score(base, self.own, setting, "other relations").value

    def followed(self, base: Base, setting: Setting) -> float | None:
        """The percentage of prompts on which it gives another answer that the edit implies."""
        scores = score_answers(base, self.implied, batch_size=setting.batch_size)
        said = {prompt for (prompt, _), score in zip(self.implied, scores, strict=True) if score.exact}
        return Score.of(float(asked.prompt in said) for asked in self.questions.neighbours).value


class _World:
    """What the demo model knows, by subject and by answer."""

    def __init__(self, triples: Sequence[Triple]) -> None:
        self.about: dict[str, list[Triple]] = defaultdict(list)
        self._of_whom: dict[tuple[str, str], list[str]] = defaultdict(list)  # subjects by relation and answer
        for triple in triples:
            self.about[triple.subject].append(triple)
            self._of_whom[triple.relation, triple.answer].append(triple.subject)

    def answers(self, relation: str, *, among: tuple[str, str]) -> set[str]:
        """Answers of a relation for the subjects of which `among`, another relation and answer, is true."""
        found = (triple for subject in self._of_whom[among] for triple in self.about[subject])
        return {triple.answer for triple in found if triple.relation == relation}
