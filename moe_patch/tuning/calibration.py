"""What options are tried on: facts that the base knows, and text that it writes.

Nothing has to be given. The facts are edited away, each to what the base says of another subject. Whether an
edit spread as it should is asked in contexts that the base wrote, and whether it spread further by the same
prompt about other subjects, to which the base's own answers must stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.text import comparable
from moe_patch.elicit.contexts import written_contexts
from moe_patch.elicit.known import known_facts
from moe_patch.elicit.neighbours import generate_neighbours
from moe_patch.elicit.paraphrases import generate_paraphrases
from moe_patch.errors import TuningError
from moe_patch.progress import Progress

FACTS = 20
"""Facts that a trial edits, unless another number is asked for."""

CHECKS = 2
"""Groups of facts, each as large as that of a trial, to check the result on; one where facts are few."""

_FEWEST = 4  # facts of a group from which anything can be told
_TEXTS, _TEXT_TOKENS = 24, 48
_SPARE = 2  # texts written for each that is wanted, since some name what is edited
_TEXT_SEED = 4_000_037  # apart from those of paraphrases, neighbours and protected text


@dataclass(frozen=True, slots=True)
class Probe:
    """A fact that is edited, and what is asked to see what came of it."""

    fact: Fact
    paraphrases: tuple[str, ...]  # complete prompts that should get the new answer
    neighbours: tuple[tuple[str, str], ...]  # complete prompts with the base's own answers, which should stay


@dataclass(frozen=True, slots=True)
class Calibration:
    """Facts to search on, others to check the result on, and text whose language should stay."""

    search: tuple[Probe, ...]
    checks: tuple[tuple[Probe, ...], ...]  # groups, each as large as `search`
    texts: tuple[str, ...]


def calibrate(
    base: Base,
    count: int = FACTS,
    *,
    seed: int = 0,
    chat: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Ask the base for all of it. With a base that knows few facts, the groups are smaller than `count`.

    Args:
        base: the model, without patches.
        count: facts of a group.
        seed: of all that the base writes.
        chat: whether prompts are put into the tokenizer's chat template.
        progress: called with stages.

    Raises:
        TuningError: the base knows too few facts.
        NumericalError: the logits hold NaN or an infinity.
    """
    facts = known_facts(base, (1 + CHECKS) * count, seed=seed, progress=progress)
    groups = 1 + (CHECKS if len(facts) >= (1 + CHECKS) * _FEWEST else 1)
    size = min(count, len(facts) // groups)
    if size < _FEWEST:
        raise TuningError(
            f"{base.name} says {len(facts)} facts of its own accord, and {groups * _FEWEST} are the fewest "
            "that options can be tried on: give options yourself"
        )
    probes = _probes(base, facts[: groups * size], seed, chat)
    search, *checks = (probes[first : first + size] for first in range(0, groups * size, size))
    return Calibration(search, tuple(checks), _texts(base, facts, seed))


def _probes(base: Base, facts: Sequence[Fact], seed: int, chat: bool) -> tuple[Probe, ...]:
    paraphrases = generate_paraphrases(base, facts, seed=seed, chat=chat)
    neighbours = generate_neighbours(base, facts, seed=seed, chat=chat)
    return tuple(
        Probe(fact, asked, tuple((each.prompt, each.answer) for each in others))
        for fact, asked, others in zip(facts, paraphrases, neighbours, strict=True)
    )


def _texts(base: Base, facts: Sequence[Fact], seed: int) -> tuple[str, ...]:
    """Texts that the base writes; where there is a choice, none that names a subject, which may change."""
    written = written_contexts(base, _SPARE * _TEXTS, _TEXT_TOKENS, _TEXT_SEED + seed)
    subjects = [comparable(fact.subject).casefold() for fact in facts]
    silent = [text for text in written if not any(name in text.casefold() for name in subjects)]
    return tuple((silent or written)[:_TEXTS])
