"""A card as data and in plain words: a verdict of one sentence, what was found, and what the model says.

What counts is what users see. An answer is held if the model writes the whole of it, and unchanged if it
writes what it wrote before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

from moe_patch.evaluation.card.cost import Cost
from moe_patch.evaluation.drift import Drift
from moe_patch.io.html_tables import Tabled
from moe_patch.io.plain_text import plain_text
from moe_patch.io.wording import counted
from moe_patch.patch.fingerprint import in_ranges
from moe_patch.stack.untaken import Untaken

Kind = Literal["fact", "paraphrase", "neighbour"]

DAMAGED = 0.5
"""Nats a token by which other text moves, or becomes less likely, from where on a model counts as damaged."""

CLEARLY, HARDLY = 0.1, 0.02
"""Nats a token below which other text moves a little, or hardly at all."""

MANY = 0.8
"""The share of paraphrases that hold, or of neighbours that stay, below which the verdict speaks of it."""

_SHOWN = 10  # facts that did not take
_SAID = 3  # facts that did
_GOOD: dict[Kind, str] = {"paraphrase": "give the new answer", "neighbour": "are answered as before"}
_BAD: dict[Kind, str] = {"fact": "not said", "paraphrase": "does not hold", "neighbour": "changed"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says to one prompt, before and with the patch."""

    kind: Kind
    generated: bool  # whether the base made the prompt, and not the user
    fact: str  # its id
    prompt: str
    before: str
    now: str
    wanted: str  # the new answer; of a neighbour, what the model said before
    good: bool  # whether the whole of what is wanted is said


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some prompts are as they should be."""

    good: int
    prompts: int

    @property
    def share(self) -> float | None:
        """From 0 to 1; None without prompts."""
        return self.good / self.prompts if self.prompts else None


@dataclass(frozen=True, slots=True)
class Card(Tabled):
    """What a patch does, what else it moves and what it costs."""

    facts: int  # of the patch
    said: Share  # of all facts if the build asked them all, else of those that were asked for the card
    missed: tuple[Untaken, ...]  # facts that are not said, as far as the build asked
    replies: tuple[Reply, ...]
    text: str  # the name of the other text
    drift: Drift | None  # on that text; None without any
    routing: float | None  # percent of routing on neighbours that stays; None without neighbours or layers
    cost: Cost

    def of(self, kind: Kind, *, generated: bool | None = None) -> Share:
        """The share of replies to prompts of a kind: the user's, generated ones, or both."""
        some = [
            reply.good
            for reply in self.replies
            if reply.kind == kind and generated in (None, reply.generated)
        ]
        return Share(sum(some), len(some))

    def measure(self, kind: Kind) -> Share:
        """By what the patch is judged: prompts of the user's if there are any, else generated ones."""
        own = self.of(kind, generated=False)
        return own if own.prompts else self.of(kind, generated=True)

    def examples(self, kind: Kind, *, good: bool) -> list[Reply]:
        """Replies to prompts of a kind that are as they should be, or that are not."""
        return [reply for reply in self.replies if reply.kind == kind and reply.good == good]

    def tables(self) -> list[Table]:
        """What was found under the verdict, what the model says, and the facts that did not take."""
        tables = [_findings_table(self), _replies_table(self)]
        return [*tables, _missed_table(self.missed)] if self.missed else tables

    def to_json(self) -> dict[str, Any]:
        """Plain data: shares from 0 to 1, replies, divergences in nats; None for what was not measured."""
        return {
            "verdict": verdict(self),
            "facts": self.facts,
            "said": _share(self.said),
            "missed": [
                {"id": one.fact.id, "says": one.says, "reasons": list(one.reasons)} for one in self.missed
            ],
            "paraphrases": self._sources("paraphrase"),
            "neighbours": self._sources("neighbour"),
            "text": None if self.drift is None else {"name": self.text, **self.drift.to_json()},
            "routing": self.routing,
            "cost": asdict(self.cost),
            "replies": [asdict(reply) for reply in self.replies],
        }

    def _sources(self, kind: Kind) -> dict[str, Any]:
        own, made = (self.of(kind, generated=generated) for generated in (False, True))
        return {"own": _share(own), "generated": _share(made)}


def _share(share: Share) -> dict[str, Any]:
    return {"share": share.share, "good": share.good, "prompts": share.prompts}


def verdict(card: Card) -> str:
    """The card in one sentence."""
    said = _facts(card)
    if card.drift is not None and _rise(card.drift) >= DAMAGED:
        return f"Do not use this patch: it damages the model. {said}"
    if _nothing_moved(card):
        return f"This patch changes nothing that was asked. {said}"
    wanting = list(_wanting(card))
    if wanting:
        return f"{said} But {' and '.join(wanting)}."
    return f"{said} Other answers and other text stay nearly as they were." if _asked_others(card) else said


def _facts(card: Card) -> str:
    said = card.said
    if said.prompts < card.facts:
        return f"Of {said.prompts} facts that were asked, {said.good} are said."
    if said.good == said.prompts:
        return "The fact is said." if said.prompts == 1 else f"All {said.prompts} facts are said."
    verb = "is" if said.good == 1 else "are"
    return f"{said.good or 'None'} of {counted(said.prompts, 'fact')} {verb} said."


def _wanting(card: Card) -> Iterator[str]:
    """What is not as it should be, apart from facts that are not said."""
    for generated, source in ((False, ""), (True, " that the base wrote")):
        held, kept = (card.of(kind, generated=generated) for kind in ("paraphrase", "neighbour"))
        if _few(held):
            yield f"only {held.good} of {held.prompts} other ways of asking{source} give the new answer"
        if _few(kept):
            changed = kept.prompts - kept.good
            yield f"{changed} of {kept.prompts} answers about other subjects{source} changed"
    if card.drift is not None and _rise(card.drift) >= CLEARLY:
        yield "other text is clearly moved"


def _few(share: Share) -> bool:
    return share.share is not None and share.share < MANY


def _asked_others(card: Card) -> bool:
    return card.drift is not None and card.of("neighbour").prompts > 0


def _nothing_moved(card: Card) -> bool:
    still = all(reply.before == reply.now for reply in card.replies)
    return still and not card.said.good and (card.drift is None or _rise(card.drift) < 1e-5)


def _rise(drift: Drift) -> float:
    return max(drift.divergence, drift.loss_after - drift.loss_before)


def _findings_table(card: Card) -> Table:
    table = _table(verdict(card), ("", ""), header=False)
    for name, found in _findings(card):
        table.add_row(name, plain_text(found))
    return table


def _missed_table(missed: Sequence[Untaken]) -> Table:
    title = f"Facts that did not take ({len(missed)})"
    more = f": the first {_SHOWN}" if len(missed) > _SHOWN else ""
    table = _table(title + more, ("prompt", "new answer", "says instead", "likely because"))
    for one in missed[:_SHOWN]:
        row = (one.fact.text, one.fact.target_new, one.says or "", "; ".join(one.reasons))
        table.add_row(*map(plain_text, row))
    return table


def _findings(card: Card) -> Iterator[tuple[str, str]]:
    yield "facts", _facts(card)
    for kind, words in _GOOD.items():
        for generated in (False, True):
            share = card.of(kind, generated=generated)
            if share.prompts:
                mark = " (generated)" if generated else ""
                yield f"{kind}s{mark}", f"{share.good} of {share.prompts} {words}"
    if card.drift is not None:
        yield "other text", f"{_text(card.drift)} ({card.text}, {card.drift.tokens:,} tokens)"
    if card.routing is not None:
        yield "routing", f"{card.routing:.0f}% of the experts chosen on neighbours are the same"
    cost = card.cost
    size = [] if cost.file is None else [_bytes(cost.file)]
    took = [] if cost.seconds is None else [f"built in {cost.seconds:.1f} s"]
    yield "cost", "; ".join([*size, _changed(card), *took])
    if not cost.layers:
        yield "to serve", "longer prompts, which whoever asks must write"
        return
    adapter = "" if cost.rank is None else f", or an adapter of rank {cost.rank}"
    merged = "a bypass of" if cost.rank is None else "nothing once it is merged; else"
    yield "to serve", f"{merged} {_bytes(cost.memory)} beside the weights{adapter}"


def _text(drift: Drift) -> str:
    bounds = {HARDLY: "hardly moved", CLEARLY: "a little moved", DAMAGED: "clearly moved"}
    level = next((words for bound, words in bounds.items() if _rise(drift) < bound), "destroyed")
    return (
        f"{level}: {drift.divergence:.3f} nats a token; perplexity {drift.perplexity_after:.4g}, before "
        f"{drift.perplexity_before:.4g}"
    )


def _changed(card: Card) -> str:
    cost = card.cost
    if not cost.layers:
        return "prompts alone"
    layers = f"layer{'s' if len(cost.layers) > 1 else ''} {in_ranges(cost.layers)}"
    return f"{counted(cost.experts, 'expert')} of {layers}" if cost.experts else f"beside {layers}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _replies_table(card: Card) -> Table:
    """What the model says: a case of each kind that is not as it should be, and facts that are."""
    table = _table("What the model says", ("prompt", "before", "now", "wanted", ""))
    shown: list[tuple[Reply, str]] = [(reply, "") for reply in card.examples("fact", good=True)[:_SAID]]
    for kind, word in _BAD.items():
        shown += [(reply, word) for reply in card.examples(kind, good=False)[:1]]
    for reply, word in shown:
        mark = ", generated" if reply.generated else ""
        source = "" if reply.kind == "fact" else f"{reply.kind}{mark}: "
        row = (reply.prompt, reply.before, reply.now, reply.wanted, f"{source}{word}")
        table.add_row(*map(plain_text, row))
    return table


def _table(title: str, columns: Sequence[str], *, header: bool = True) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", show_header=header)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
