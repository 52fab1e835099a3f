"""A build from its request to its patch, in steps: open, choose, run, and look at what came of it.

    job = open_job(BuildRequest(Path("facts.jsonl")))   # the facts are read and the model is opened
    choice = job.choose()                               # options, with where each comes from
    built = job.run(choice)                             # the patch
    card = job.card(built)                              # whether it is good

Between the steps a caller can show what was found. Saving the patch is left to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.building.edits import notes_on, read_edits
from moe_patch.data.corpus import Corpus
from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import Fact
from moe_patch.data.mixture import read_corpus
from moe_patch.data.schemas import ZsreSchema
from moe_patch.evaluation import Setting
from moe_patch.evaluation.card import Card, held_out, make_card
from moe_patch.methods import Method, get_method
from moe_patch.methods.base import MethodOptions
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.stack import resolve_stack
from moe_patch.tuning import Choice, choose

SOURCES = "sources"
"""The key of a patch's hyper-parameters that says where options came from which are no plain defaults."""

_MORE_TOKENS = 16_384  # of preserved text that are read behind the used ones, to see what else a patch moves

Tell = Callable[[str], None]
"""Called with a line that the user should read while the job goes on."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build, and how to open what it takes."""

    edits: Path | Sequence[Fact]  # a facts file, or facts
    model: str | Path | Base | None = None  # None for the demo model
    method: str = "moeedit"
    recipe: str | None = (
        None  # a name or a path, "none", "as-published"; None for the one that fits the model
    )
    given: Mapping[str, Any] = field(default_factory=dict)  # options by dotted names, which win
    stack: Path | None = None  # the lock file of a stack to build on
    schema: ZsreSchema | None = None
    skip_invalid: bool = False
    dtype: torch.dtype | None = None
    device_map: str | None = None
    offload_folder: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """What came of a build."""

    patch: Patch
    choice: Choice
    seconds: float  # of the build alone, without opening the model and choosing options


@dataclass(frozen=True, slots=True, eq=False)
class BuildJob:
    """A build whose facts are read and whose model is open."""

    request: BuildRequest
    base: Base
    facts: Sequence[Fact]
    method: Method[Any]
    earlier: EarlierEdits | None

    def choose(self, progress: Progress | None = None) -> Choice:
        """The options.

        Raises:
            ConfigError: as for `moe_patch.tuning.choose`.
        """
        return choose(
            self.base,
            self.facts,
            self.method,
            given=self.request.given,
            recipe=self.request.recipe,
            progress=progress,
        )

    def run(self, choice: Choice, progress: Progress | None = None) -> Built:
        """Build the patch, which records where its options came from.

        Raises:
            MoePatchError: as for the method's `build` and `build_on`.
        """
        started = time.monotonic()
        if self.earlier is None:
            patch = self.method.build(self.base, self.facts, choice.options, progress)
        else:
            patch = self.method.build_on(self.base, self.facts, choice.options, self.earlier, progress)
        recorded = patch.hyperparameters | {SOURCES: choice.record()}
        return Built(replace(patch, hyperparameters=recorded), choice, time.monotonic() - started)

    def card(self, built: Built, *, size: int | None = None, progress: Progress | None = None) -> Card:
        """Whether the patch is good, measured on top of the stack that it was built on.

        Args:
            built: what came of the build.
            size: of the patch's file in bytes.
            progress: called while the model is asked.

        Raises:
            MoePatchError: as for `make_card`.
        """
        rewrite = self.method.rewriter(self.base, built.patch)
        setting = Setting(chat=built.patch.chat, progress=progress, rewrite=rewrite)
        text = _unused_text(self.base, built.choice.options)
        with nullcontext() if self.earlier is None else apply(self.base, self.earlier.patch, mode="hook"):
            return make_card(
                self.base, built.patch, text=text, seconds=built.seconds, size=size, setting=setting
            )


def open_job(request: BuildRequest, tell: Tell | None = None) -> BuildJob:
    """Read the facts, resolve the stack and open the model.

    Mistakes in the facts are found before the model is opened; those that only its tokenizer shows, after.

    Args:
        request: what to build.
        tell: called with what the user should know of facts and stack.

    Raises:
        FactError: the facts cannot be used.
        ConfigError: there is no such method, or the schema is not that of the facts.
        StackError: the stack cannot be resolved.
        ModelError: the model cannot be opened or edited.
    """
    method = get_method(request.method)
    _read(request)
    earlier = None
    if request.stack is not None:
        resolved = resolve_stack(request.stack)
        earlier = EarlierEdits(resolved.patch, resolved.patch.parents)
        _tell_all(tell, resolved.notes)
    base = _open(request, method)
    facts = _read(request, base)
    if isinstance(facts, FactFile) and isinstance(request.edits, Path):
        _tell_all(tell, notes_on(facts, request.edits))
    return BuildJob(request, base, facts, method, earlier)


def build_patch(
    request: BuildRequest, *, tell: Tell | None = None, progress: Progress | None = None
) -> Built:
    """Open, choose and run.

    Raises:
        MoePatchError: as for the steps.
    """
    job = open_job(request, tell)
    return job.run(job.choose(progress), progress)


def _unused_text(base: Base, options: MethodOptions) -> Corpus | None:
    """What is left of the preserved text behind the part that the build has used."""
    corpus, used = getattr(options, "corpus", None), getattr(options, "corpus_tokens", None)
    if corpus is None or used is None:
        return None
    return held_out(base, read_corpus(corpus, base.reader, used + _MORE_TOKENS), used)


def _open(request: BuildRequest, method: Method[Any]) -> Base:
    if isinstance(request.model, Base):
        return request.model
    return open_base(
        request.model,
        dtype=request.dtype,
        device_map=request.device_map,
        offload_folder=request.offload_folder,
        allow_dense=method.edits_dense,
    )


def _read(request: BuildRequest, base: Base | None = None) -> Sequence[Fact]:
    if not isinstance(request.edits, Path):
        return request.edits
    return read_edits(
        request.edits,
        schema=request.schema,
        skip_invalid=request.skip_invalid,
        base=base,
        whole_prompt=request.given.get("targets.fact_token") == "last",
    )


def _tell_all(tell: Tell | None, lines: Iterable[str]) -> None:
    if tell is not None:
        for line in lines:
            tell(line)
