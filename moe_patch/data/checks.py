"""What facts of one file must not be: repeated, contradicted, of no effect, or without tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from moe_patch.data.facts import Fact, as_continuation
from moe_patch.data.text import comparable
from moe_patch.errors import FactError

Tokenize = Callable[[str], list[int]]


class FactChecks:
    """Checks one fact after another, and remembers what later ones must not repeat or contradict."""

    def __init__(self, tokenize: Tokenize | None = None) -> None:
        self.tokenize = tokenize
        self.lines_of_ids: dict[str, int] = {}
        self.answers: dict[str, tuple[int, str]] = {}
        self.lines_of_kept: dict[str, int] = {}

    def is_known(self, fact: Fact) -> bool:
        """Whether an earlier fact gives the same answer to the same prompt."""
        _, answer = self.answers.get(comparable(fact.text), (0, ""))
        return comparable(answer) == comparable(fact.target_new)

    def add(self, line: int, fact: Fact) -> None:
        """Check the fact on a line, and remember it.

        Raises:
            FactError: it cannot be used beside the earlier ones, or at all.
        """
        self._check_targets(fact)
        _check_change(fact)
        self._check_new(line, fact)

    def _check_targets(self, fact: Fact) -> None:
        for field, answer in _answers(fact):
            if self.tokenize and not self.tokenize(as_continuation(answer)):
                raise FactError(
                    f"expected at least one token, but {answer!r} tokenises to nothing", field=field
                )

    def _check_new(self, line: int, fact: Fact) -> None:
        asked = comparable(fact.text)
        if asked in self.answers:
            earlier, answer = self.answers[asked]
            if comparable(answer) == comparable(fact.target_new):
                problem = f"{fact.text!r} repeats line {earlier}; keep one of the two"
                raise FactError(problem, field="prompt")
            problem = f"{fact.target_new!r} after {fact.text!r} contradicts line {earlier}, which says"
            raise FactError(f"{problem} {answer!r}; keep one of the two", field="target_new")
        if fact.id in self.lines_of_ids:
            problem = f"{fact.id!r} is already the id of line {self.lines_of_ids[fact.id]}"
            raise FactError(problem, field="id")
        self._check_kept(line, fact)
        self.answers[asked] = line, fact.target_new
        self.lines_of_ids[fact.id] = line
        self.lines_of_kept |= dict.fromkeys(map(comparable, fact.kept), line)

    def _check_kept(self, line: int, fact: Fact) -> None:
        """A prompt to keep must not be one that a fact changes."""
        asked = comparable(fact.text)
        for number, text in enumerate(fact.kept):
            kept = comparable(text)
            changed = line if kept == asked else self.answers.get(kept, (0, ""))[0]
            if changed:
                problem = f"{text!r} is a prompt to keep, but line {changed} changes its answer"
                raise FactError(f"{problem}; remove one of the two", field=f"keep.{number}")
        if asked in self.lines_of_kept:
            problem = f"line {self.lines_of_kept[asked]} asks to keep the answer of {fact.text!r}"
            raise FactError(f"{problem}; remove one of the two", field="prompt")


def _answers(fact: Fact) -> Iterator[tuple[str, str]]:
    """Every answer of a fact, with its field."""
    yield "target_new", fact.target_new
    if fact.target_true is not None:
        yield "target_true", fact.target_true
    for number, answer in enumerate(fact.neighborhood_answers):
        yield f"neighborhood_answers.{number}", answer
    for number, implied in enumerate(fact.portability):
        yield f"portability.{number}.answer", implied.answer
    for number, chain in enumerate(fact.chains):
        for link, known in enumerate(chain):
            yield f"chains.{number}.{link}.answer", known.answer


def _check_change(fact: Fact) -> None:
    """Refuse a new answer that is the true one: neither can be likelier, so it would count as missed."""
    if fact.changes_nothing:
        problem = f"{fact.target_new!r} is target_true as well, so nothing would change; leave the fact out"
        raise FactError(problem, field="target_new")
