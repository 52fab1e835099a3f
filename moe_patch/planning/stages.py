"""The stages of a build by a delta method, each as counted work.

A stage is one function of the job. It says what passes it makes, and what it computes and holds beside them.
What a build finds out only while it runs is assumed, and every assumption is a field of `Job`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from moe_patch.base.statistics import DEFAULT_BATCH_TOKENS
from moe_patch.elicit.growing import EXPERTS_WATCHED
from moe_patch.elicit.own_text import FIRST_PORTION, MOST_TOKENS, TEXT_TOKENS
from moe_patch.elicit.writing import ROWS_PER_PASS
from moe_patch.evaluation.controls import ANSWER_TOKENS
from moe_patch.evaluation.controls import COUNT as CONTROLS
from moe_patch.planning.outline import LayerOutline, ModelOutline
from moe_patch.planning.work import Work
from moe_patch.tracing.location import ASKED, BLOCKS, OUTPUTS, TRACED

_PADDING = 1.2  # tokens that a pass over preserved text computes for each that is not padding
_AROUND_A_SEARCH = 8  # passes over all prompts: the start, what is held, and what was found at full size

USUAL_STEPS = 30  # of a search; an option bounds them
USUAL_PROMPT, USUAL_ANSWER = 12, 3  # tokens


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be built, and what is assumed of it."""

    facts: int
    layers: tuple[int, ...]  # edit layers
    trace: bool = False  # whether the layers are chosen by tracing
    own_text: bool = False  # whether the base writes the preserved text
    corpus_tokens: int = 0  # of preserved text; 0 without projection
    contexts: int = 1  # prompts of a fact, the one without a prefix included
    shares: int = 1  # parts of a change that a search tries a prompt with
    facts_per_pass: int = 64
    batch_size: int | None = None
    steps: int = USUAL_STEPS
    prompt: int = USUAL_PROMPT  # tokens of a prompt, with a prefix if it has one
    answer: int = USUAL_ANSWER  # tokens of an answer
    tucker: bool = False  # whether the experts are decomposed, as MoTE does

    @property
    def last(self) -> int:
        """The last edit layer."""
        return self.layers[-1]

    @property
    def batch(self) -> int:
        """Facts that are solved together."""
        return min(self.batch_size or self.facts, self.facts)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, counted."""

    name: str
    works: tuple[Work, ...] = ()
    algebra: float = 0.0  # operations in fp32
    decompositions: tuple[tuple[int, int], ...] = ()  # (how many, size) of eigendecompositions
    read: float = 0.0  # bytes from the disk
    hashed: float = 0.0  # bytes
    held: int = 0  # most bytes beside the weights, passes left out
    kept: int = 0  # bytes that stay until the build ends

    def most(self, model: ModelOutline) -> int:
        """Most bytes at a time beside the weights and what earlier stages keep."""
        return self.held + max((work.held(model) for work in self.works), default=0)


@dataclass(frozen=True, slots=True)
class Counted:
    """A job counted on a model."""

    model: ModelOutline
    job: Job
    stages: tuple[Stage, ...] = field(default=())


def count(model: ModelOutline, job: Job) -> Counted:
    """All stages, in their order; those that the job does not have are left out."""
    found = (stage for make in STAGES for stage in make(model, job))
    return Counted(model, job, tuple(found))


def _open(model: ModelOutline, job: Job) -> Iterator[Stage]:
    yield Stage("open the model", read=model.bytes)


def _hash(model: ModelOutline, job: Job) -> Iterator[Stage]:
    yield Stage("hash the base", hashed=model.bytes)


def _trace(model: ModelOutline, job: Job) -> Iterator[Stage]:
    if job.trace:
        layers = len(model.editable)
        whole = 3 * min(ASKED, job.facts)  # for the base's answers, and with and without noise
        begun = min(OUTPUTS, layers) + min(BLOCKS, layers)  # passes that start at the restored layer
        rows = whole + min(TRACED, job.facts) * (1 + begun / 2)
        passes = max(1.0, rows / job.facts_per_pass)
        width = min(math.ceil(rows), job.facts_per_pass)
        yield Stage("trace", (Work("forward", width, job.prompt + job.answer, passes, _all(model), width),))


def _write(model: ModelOutline, job: Job) -> Iterator[Stage]:
    if job.own_text:
        portions = list(_portions(job.corpus_tokens))
        steps = [
            Work(
                "step", min(texts, ROWS_PER_PASS), TEXT_TOKENS // 2, TEXT_TOKENS * batches, _all(model), rows
            )
            for texts in portions
            for batches, rows in [(math.ceil(texts / ROWS_PER_PASS), min(texts, ROWS_PER_PASS))]
        ]
        compared = len(portions) - 1
        sizes = tuple(
            (compared * min(EXPERTS_WATCHED, layer.experts), layer.d_key) for layer in _edited(model, job)
        )
        yield Stage("own text", tuple(steps), decompositions=sizes)


def _portions(tokens: int) -> Iterator[int]:
    """Texts of each portion, until there are this many tokens: each is as long as all before it."""
    texts, portion = 0, FIRST_PORTION
    while texts * TEXT_TOKENS < min(tokens, MOST_TOKENS):
        yield portion
        texts += portion
        portion = texts


def _statistics(model: ModelOutline, job: Job) -> Iterator[Stage]:
    if job.corpus_tokens:
        layers = _edited(model, job)
        rows = max(1, min(DEFAULT_BATCH_TOKENS, job.corpus_tokens) // TEXT_TOKENS)
        passes = max(1.0, _PADDING * job.corpus_tokens / (rows * TEXT_TOKENS))
        work = Work("forward", rows, TEXT_TOKENS, passes, tuple(range(job.last + 1)))
        outer = sum(2.0 * job.corpus_tokens * layer.top_k * layer.d_key**2 for layer in layers)
        moments = sum(4 * layer.experts * layer.d_key**2 for layer in layers)
        yield Stage("statistics", (work,), algebra=outer, held=moments, kept=moments)
        sizes = tuple((layer.experts, layer.d_key) for layer in layers)
        bases = sum(8 * layer.experts * layer.d_key**2 // 2 for layer in layers)  # half of the directions
        yield Stage("null spaces", decompositions=sizes, held=bases, kept=bases)


def _factors(model: ModelOutline, job: Job) -> Iterator[Stage]:
    if job.tucker:
        layers = _edited(model, job)
        modes = [(layer.experts, model.hidden, layer.d_key) for layer in layers]
        grams = sum(2.0 * math.prod(each) * sum(each) for each in modes)
        sizes = tuple((1, mode) for each in modes for mode in each)
        held = max(8 * math.prod(each) for each in modes)
        yield Stage("factors", algebra=grams, decompositions=sizes, held=held)


def _targets(model: ModelOutline, job: Job) -> Iterator[Stage]:
    facts = min(job.batch, job.facts_per_pass)
    tries = facts * job.contexts * job.shares
    rows = tries + facts  # and what is held: one prompt of each subject
    above = tuple(range(job.last + 1, len(model.layers)))
    passes = job.facts / facts
    around = _AROUND_A_SEARCH * passes
    first = Work("forward", rows, job.prompt + job.answer, around, _all(model), rows)
    reads = tries * job.answer + facts
    tail = 2 + job.answer + (job.prompt // 3)  # tokens from the subject's last one on
    search = Work("search", rows, tail, passes * job.steps, above, reads)
    yield Stage("targets", (first, search))


def _solve(model: ModelOutline, job: Job) -> Iterator[Stage]:
    rows = min(job.batch * job.contexts, job.facts_per_pass * job.contexts)
    passes = job.facts * job.contexts / rows * len(job.layers)
    keys = Work("forward", rows, job.prompt, passes, tuple(range(job.last + 1)))
    known = job.facts  # earlier facts are protected, so the last batch has a row for each
    batches = math.ceil(job.facts / job.batch)
    algebra = sum(
        batches * (2.0 * known**2 * layer.d_key * layer.top_k + known**3 / 3) for layer in _edited(model, job)
    )
    yield Stage("keys and solve", (keys,), algebra=algebra, held=4 * known**2, kept=patch_bytes(model, job))


def _ask(model: ModelOutline, job: Job) -> Iterator[Stage]:
    width = min(job.facts, job.facts_per_pass)
    tokens, layers = job.prompt + job.answer, _all(model)
    asked = Work("forward", width, tokens, job.facts / width, layers, width)
    answers = Work("step", CONTROLS, tokens, ANSWER_TOKENS, layers, CONTROLS)
    scored = Work("forward", CONTROLS, tokens + ANSWER_TOKENS, 4, layers, CONTROLS * ANSWER_TOKENS)
    yield Stage("ask the facts", (asked, answers, scored))


STAGES: tuple[Callable[[ModelOutline, Job], Iterator[Stage]], ...] = (
    _open,
    _hash,
    _trace,
    _write,
    _statistics,
    _factors,
    _targets,
    _solve,
    _ask,
)
"""In the order of a build. A new stage is one function and one line here."""


def patch_bytes(model: ModelOutline, job: Job) -> int:
    """The size of the patch's tensors: a row for each expert that a fact reaches, and what is added."""
    return sum(4 * job.facts * (layer.top_k * layer.d_key + model.hidden) for layer in _edited(model, job))


def _edited(model: ModelOutline, job: Job) -> list[LayerOutline]:
    return [model.layers[index] for index in job.layers]


def _all(model: ModelOutline) -> tuple[int, ...]:
    return tuple(range(len(model.layers)))
