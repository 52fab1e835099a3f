"""Neighbours of a fact that came without any: its own prompt about other subjects.

An edit should not be felt there. The subjects are proposed by the base, and so is what is said of them: an
answer is the base's own, true or not. Subjects of the facts themselves are no neighbours, since they are
edited too, and what follows from an edit is allowed to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.prompts import Prompt
from moe_patch.data.text import comparable, composed
from moe_patch.elicit.asking import suit, write_on
from moe_patch.elicit.paraphrases import has_room
from moe_patch.elicit.subjects import propose_subjects

NEIGHBOURS = 4
"""Neighbours made for a fact, unless another number is asked for."""

_TRIED = 3  # proposals looked at for each neighbour that is wanted
_WORST = 3.0  # nats a token by which the rest of the prompt may suit a subject less than the best one
_SEED = 3_000_017


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A prompt about a subject that no fact edits, with what the base says to it."""

    prompt: str  # complete
    subject: str
    answer: str  # the base's own, greedily, with as many tokens as the fact's answer


def generate_neighbours(
    base: Base,
    facts: Sequence[Fact],
    *,
    count: int = NEIGHBOURS,
    seed: int = 0,
    chat: bool = False,
    subjects: Sequence[str] = (),
    avoid: Sequence[str] = (),
) -> list[tuple[Neighbour, ...]]:
    """At most `count` neighbours of each fact, the same every time.

    Of the proposed subjects, those are taken after which the base finds the rest of the prompt likeliest. A
    neighbour whose answer is the fact's new one is left out: it could not show that an edit spreads.

    Args:
        base: the model, without the patch that is to be asked about.
        facts: T facts; the neighbours that they have are not looked at.
        count: neighbours of each fact.
        seed: of the samples. The caller's random state does not change.
        chat: whether prompts are put into the tokenizer's chat template.
        subjects: further subjects that no fact edits, to be tried first.
        avoid: further subjects that are edited, and so are no neighbours.

    Returns:
        T tuples.

    Raises:
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        NumericalError: the logits hold NaN or an infinity.
    """
    if not count or not facts:
        return [()] * len(facts)
    edited = {comparable(subject).casefold() for subject in (*avoid, *(fact.subject for fact in facts))}
    given = [each for each in dict.fromkeys(subjects) if comparable(each).casefold() not in edited]
    proposed = [
        list(dict.fromkeys([*given, *some]))[: _TRIED * count]
        for some in propose_subjects(base, facts, edited, _SEED + seed)
    ]
    asked = {
        (fact.prompt, subject): _about(fact, subject)
        for fact, some in zip(facts, proposed, strict=True)
        for subject in some
        if has_room(base, _about(fact, subject), fact.target_true or fact.target_new, chat)
    }
    fits = dict(zip(asked, suit(base, [_rest(base, *pair) for pair in asked]), strict=True))
    ranked = [_ranked(fact, some, fits) for fact, some in zip(facts, proposed, strict=True)]
    return _answered(base, facts, ranked, count, chat)


def _ranked(fact: Fact, subjects: Sequence[str], fits: Mapping[tuple[str, str], float]) -> list[str]:
    """The subjects that suit the fact's prompt, the best first."""
    fit = {each: fits[fact.prompt, each] for each in subjects if (fact.prompt, each) in fits}
    least = max(fit.values(), default=0.0) - _WORST
    return sorted((each for each in fit if fit[each] >= least), key=lambda each: -fit[each])


def _about(fact: Fact, subject: str) -> str:
    return fact.prompt.replace(SLOT, subject, 1)


def _rest(base: Base, prompt: str, subject: str) -> Prompt:
    """A prompt whose `target` is where the text after the subject starts."""
    left, right = prompt.split(SLOT)
    reading = base.reader.read_text(f"{left}{subject}{right}")
    last = reading.last_token(len(composed(left)), len(composed(left + subject)))
    return Prompt(reading.ids, 0, len(reading.ids) if last is None else last + 1)


def _answered(
    base: Base, facts: Sequence[Fact], ranked: Sequence[Sequence[str]], count: int, chat: bool
) -> list[tuple[Neighbour, ...]]:
    """The first `count` subjects of each fact to which the base says something that is not the new answer."""
    tried = [some[: count + 2] for some in ranked]
    lengths = [
        len(base.reader.read_answer(fact.text, fact.target_true or fact.target_new, chat=chat).answer)
        for fact in facts
    ]
    said: dict[tuple[str, int], str] = {}
    for length in sorted(set(lengths)):
        those = [(fact, some) for fact, some, one in zip(facts, tried, lengths, strict=True) if one == length]
        texts = list(dict.fromkeys(_about(fact, subject) for fact, some in those for subject in some))
        rows = [base.reader.read_prompt(text, chat=chat) for text in texts]
        said |= zip([(text, length) for text in texts], write_on(base, rows, length), strict=True)
    found = []
    for fact, some, length in zip(facts, tried, lengths, strict=True):
        all_of_them = (Neighbour(text := _about(fact, each), each, said[text, length]) for each in some)
        found.append(tuple(each for each in all_of_them if _tells(each, fact))[:count])
    return found


def _tells(neighbour: Neighbour, fact: Fact) -> bool:
    """Whether a neighbour has an answer, and one that is not the fact's new answer."""
    said, wanted = comparable(neighbour.answer).casefold(), comparable(fact.target_new).casefold()
    return bool(said) and not said.startswith(wanted) and not wanted.startswith(said)
