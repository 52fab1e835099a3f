"""How much of real facts is understood without their subjects: found as labelled, refused, or wrong.

    python -m recipes.benchmarks.understanding FOLDER            # with counterfact.jsonl, zsre.jsonl, ...
    python -m recipes.benchmarks.understanding FOLDER --part odd --wrong 20
    python -m recipes.benchmarks.understanding FOLDER --model ./some-model

FOLDER has data sets as JSON lines; those that are not there are left out. From each record the subject is
taken away; of sentences, the place of the answer too. They are understood one at a time, as in files of one
line, and as one file, whose lines explain each other.

A subject counts as right if it is the label, but for quotes, an article and case. "Same token" has another
beginning but the same end, so that an edit of it is the same. Labels are those of the data sets, which are
not always what a reader would say. The rules were written while looking at the records with even numbers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.data.understanding.guide import Guide, Understanding
from moe_patch.elicit.plain_facts import judge_of
from moe_patch.errors import UnclearFact

OUTCOMES = ("right", "same token", "refused", "wrong answer", "wrong subject")

PROMPTS = ("zsre", "qaedit", "wikibigedit", "counterfact", "knowedit_counterfact")
SENTENCES = ("counterfact", "known_1000", "knowedit_counterfact")


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, or a sentence that ends with its answer, and what is to be found in it."""

    text: str
    subject: str
    answer: str | None = None  # of a sentence


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a text."""

    text: Text
    outcome: str
    found: str


def read_texts(path: Path, *, sentences: bool) -> list[Text]:
    """The texts of a data set."""
    facts = _known(path) if path.stem == "known_1000" else read_facts(path, skip_invalid=True).facts
    if not sentences:
        return [Text(fact.text, fact.subject_text) for fact in facts]
    return [
        Text(f"{fact.text} {fact.target_new.removesuffix('.')}.", fact.subject_text, fact.target_new)
        for fact in facts
    ]


def _known(path: Path) -> Iterator[Fact]:
    """ROME's facts that GPT-2 XL knows: no schema of edits, so they are read here."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        prompt, subject = record["prompt"], record["subject"]
        if prompt.count(subject) == 1:
            yield Fact(str(record["known_id"]), prompt.replace(subject, "{}"), subject, record["attribute"])


def understand(texts: Sequence[Text], guide: Guide) -> list[Outcome]:
    """The outcome of each text."""
    return [_outcome(text, guide) for text in texts]


def _outcome(text: Text, guide: Guide) -> Outcome:
    prompt = text.text
    try:
        if text.answer is not None:
            split = guide.split(prompt, 1)
            if _plain(split.answer) != _plain(text.answer):
                return Outcome(text, "wrong answer", split.answer)
            prompt = split.prompt
        parts = guide.find(prompt, 1)
    except UnclearFact as error:
        return Outcome(text, "refused", " | ".join(error.candidates))
    if _plain(parts.subject) == _plain(text.subject):
        return Outcome(text, "right", parts.subject)
    end = len(parts.prompt.partition("{}")[0]) + len(parts.subject)
    ends = (match.end() for match in re.finditer(re.escape(text.subject), prompt))
    same = any(abs(end - label) <= 1 for label in ends)  # a quote may be in one of them
    return Outcome(text, "same token" if same else "wrong subject", parts.subject)


def _plain(text: str) -> str:
    return re.sub(r"^(the|a|an) ", "", text.strip(" \"'“”.,?").casefold())


def guides(texts: Sequence[Text], understanding: Understanding) -> Iterator[tuple[str, Guide]]:
    """The two ways to read: each text alone, and all as lines of one file."""
    yield "alone", Guide(understanding)
    together = Guide(understanding)
    together.learn((text.text, text.answer is not None) for text in texts)
    yield "one file", together


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--part", type=click.Choice(["all", "even", "odd"]), default="all", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Use this many texts of each data set.")
@click.option("--wrong", "shown", type=click.IntRange(min=0), default=0, help="Show this many wrong ones.")
@click.option("--model", help="Ask a model where the answers of sentences start that are not clear.")
def main(folder: Path, part: str, limit: int | None, shown: int, model: str | None) -> None:
    """Print a row for each data set and each way to read it."""
    understanding = Understanding()
    if model is not None:
        understanding = replace(understanding, judge=judge_of(open_base(model, allow_dense=True)))
    table = Table("texts", "of", "read", "number", *OUTCOMES)
    step = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[part]
    wrong: list[Outcome] = []
    named = [(False, name) for name in PROMPTS if model is None] + [(True, name) for name in SENTENCES]
    for sentences, name in named:
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        texts = read_texts(path, sentences=sentences)[step][:limit]
        for way, guide in guides(texts, understanding):
            outcomes = understand(texts, guide)
            counts = Counter(outcome.outcome for outcome in outcomes)
            shares = [f"{100 * counts[outcome] / len(texts):.1f}" for outcome in OUTCOMES]
            table.add_row("sentences" if sentences else "prompts", name, way, str(len(texts)), *shares)
            if way == "one file":
                wrong += [outcome for outcome in outcomes if outcome.outcome.startswith("wrong")][:shown]
    console = Console(width=160, markup=False, emoji=False, highlight=False)
    console.print(table)
    for outcome in wrong:
        label = outcome.text.answer if outcome.outcome == "wrong answer" else outcome.text.subject
        console.print(f"{outcome.outcome}: {outcome.text.text!r}: {outcome.found!r}, labelled {label!r}")


if __name__ == "__main__":
    main()
