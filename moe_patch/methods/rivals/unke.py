"""UnKE: a layer is trained until it puts out what makes the model give the answer (arXiv 2405.15349).

Two stages for each batch of facts, as in the paper's public code (TrustedLLM/UnKE):

1. What the last edit layer should put out at a prompt's last token is searched by gradient descent on the
   answer's loss: 25 steps of Adam, a decay of 1e-3 / ||h||^2 and a clamp of 4 ||h||.
2. A layer is trained by 50 steps of AdamW on

       MSE(output on the prompts, the output before + what is missing at the last token)
       + MSE(output on 20 preserved texts, the output before)

   so all other tokens of the prompts are kept as well. Several layers take equal shares of what is missing,
   from below.

Departures: the paper trains all of a layer, attention included, and here the down projections of the experts
that the facts reach; there is no weight decay, which would pull at the change and not at the weight; the
preserved texts are the base's own unless some are given, where the paper draws from Alpaca. The paper's
answers end with the end of text, which the search does not see here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, JsonValue
from torch import Tensor
from torch.nn import functional

from moe_patch.base.freezing import frozen_weights
from moe_patch.base.keys import measure_keys
from moe_patch.base.model import Base
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.data.mixture import read_corpus
from moe_patch.data.prompts import Prompt, encode_fact
from moe_patch.elicit.own_text import NAME, own_prose
from moe_patch.errors import ConfigError
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.corpus_option import CORPUS_HELP, CorpusOption
from moe_patch.methods.delta import edit_layers
from moe_patch.methods.rivals.fine_tuning import trained_deltas
from moe_patch.methods.rivals.finished import finished_patch
from moe_patch.methods.rivals.resumed_pass import ResumedPass, can_resume
from moe_patch.methods.rivals.trained_layer import TrainedLayer
from moe_patch.methods.rivals.weight_units import UNITS_HELP, Units, weight_unit
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.targets.cached import shared_targets
from moe_patch.targets.groups import check_readable, context_prefixes
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.shortfall import warn_of_shortfall
from moe_patch.targets.values import Targets

_SEARCH: dict[str, Any] = {
    "units": "published",
    "learning_rate": 0.5,
    "weight_decay": 1e-3,
    "clamp": 4.0,
    "margin": None,
    "share": 1.0,
    "patience": None,
    "steps": 25,
    "kl_weight": 0.0,
    "keep_weight": 0.0,
    "fact_token": "last",
}
"""The paper's search as values of `TargetOptions`."""


def _searched(value: Any) -> Any:
    """Options of the search by name, where those that are not given are the paper's."""
    return {**_SEARCH, **value} if isinstance(value, Mapping) else value


SearchOptions = Annotated[TargetOptions, BeforeValidator(_searched)]


class UnKEOptions(MethodOptions):
    """Options of UnKE. Defaults are those of its public code; it edits layer 7 of Llama-2-7B."""

    layers: tuple[int, ...] = Field(
        (), description="Decoder layers that are trained; target values are set at the last one."
    )
    batch_size: int | None = Field(
        1, ge=1, description="Facts trained together, one batch after the other; unset: all of them."
    )
    targets: SearchOptions = TargetOptions(**_SEARCH)
    learning_rate: float = Field(2e-4, gt=0, le=1e30, description="AdamW's.")
    units: Units = Field("published", description=UNITS_HELP)
    steps: int = Field(50, ge=1, description="Steps of training for each batch and layer.")
    preserved: int = Field(20, ge=1, description="Preserved texts that are kept in each batch.")
    preserved_tokens: int = Field(128, ge=1, description="Most tokens of a preserved text.")
    corpus: CorpusOption = Field(None, description=CORPUS_HELP)
    corpus_tokens: int = Field(100_000, ge=1, description="Most tokens of preserved text to read.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draw of preserved texts.")

    @property
    def needs_text(self) -> bool:
        """Whether preserved text is used."""
        return True


class UnKE(Method[UnKEOptions]):
    """The method, in the registry as `unke`."""

    name = "unke"
    pretty_name = "UnKE"
    changes = "down projections of the experts that facts reach, trained"
    rival = True
    Options = UnKEOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2405.15349"

    def build(
        self, base: Base, facts: Sequence[Fact], options: UnKEOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of dense changes.

        Raises:
            ConfigError: there are no facts or no edit layers, or a package is missing that the corpus needs.
            ModelError: a layer cannot be edited.
            NumericalError: a loss is not finite.
            StatisticsError: the preserved text cannot be read, or the base writes none of its own.
            TargetError: a fact's subject or answer has no token of its own.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        layers = edit_layers(base, options)
        check_readable(base, facts, options.targets)
        fingerprint = base.fingerprint(layers, progress)
        corpus = _corpus(base, options, progress)
        build = _Build(base, layers, options, corpus, progress)
        results: list[dict[str, JsonValue]] = []
        size = options.batch_size or len(facts)
        try:
            for start in range(0, len(facts), size):
                results += build.edit(facts[start : start + size])
                if progress is not None:
                    progress("facts edited", min(start + size, len(facts)), len(facts))
            per_pass = options.targets.facts_per_pass
            deltas = trained_deltas(base, facts, build.trained, options.targets.style, per_pass)
        finally:
            build.off()
        parameters: dict[str, JsonValue] = options.model_dump(mode="json", exclude={"corpus"})
        source = "own" if options.corpus is None else "corpus"
        parameters |= {"layers": list(layers), "corpus_hash": corpus.hash}
        parameters["preserved_text"] = {"source": source}
        return finished_patch(
            self,
            base,
            facts,
            fingerprint=fingerprint,
            hyperparameters=parameters,
            results=results,
            layers=deltas,
            texts=corpus.texts,
            progress=progress,
        )


class _Build:
    """The changes of all edit layers, which grow batch by batch."""

    def __init__(
        self,
        base: Base,
        layers: Sequence[int],
        options: UnKEOptions,
        corpus: Corpus,
        progress: Progress | None,
    ) -> None:
        self.trained = {layer: TrainedLayer(base, layer) for layer in layers}
        self._base, self._options, self._progress = base, options, progress
        self._rate = {
            layer: options.learning_rate * weight_unit(base.layer(layer), options.units) for layer in layers
        }
        self._prefixes = context_prefixes(base, options.targets)
        texts = base.reader.sequences(list(corpus.texts), options.preserved_tokens)
        self._texts = [Prompt(tuple(ids), len(ids) - 1) for ids in texts]
        self._source = torch.Generator().manual_seed(options.seed)
        self._resume = {layer: can_resume(base, self._texts[0], layer) for layer in layers}

    def edit(self, batch: Sequence[Fact]) -> list[dict[str, JsonValue]]:
        """Search the target values of a batch and train every layer for its share; a result for each fact."""
        base, targets, last = self._base, self._options.targets, max(self.trained)
        found = shared_targets(base, batch, last, targets, self._progress, prefixes=self._prefixes)
        warn_of_shortfall(batch, found, targets, last)
        prompts = [encode_fact(base.reader, fact, targets.style, answer=False) for fact in batch]
        drawn = torch.randperm(len(self._texts), generator=self._source)[: self._options.preserved]
        texts = [self._texts[number] for number in drawn.tolist()]
        for number, layer in enumerate(self.trained):
            _, present = measure_keys(base, prompts, [layer], last, targets.facts_per_pass)  # (T, d_m)
            share = (found.value.cpu() - present) / (len(self.trained) - number)
            self._train(layer, prompts, share, texts)
        return _results(found)

    def off(self) -> None:
        """Take all changes off the model; they are kept."""
        for layer in self.trained.values():
            layer.off()

    def _train(self, layer: int, prompts: Sequence[Prompt], share: Tensor, texts: Sequence[Prompt]) -> None:
        """Train a layer to put out `share` (T, d_m) more at the prompts' edited tokens, and else the same."""
        resume, trained = self._resume[layer], self.trained[layer]
        asked, kept = (ResumedPass(self._base, some, layer, resume=resume) for some in (prompts, texts))
        with torch.no_grad():
            goals = [one.states(layer).float() for one in (asked, kept)]  # (B, S, d_m) each
        edited = torch.tensor([prompt.edited for prompt in prompts])
        goals[0][torch.arange(len(prompts)), edited] += share.to(goals[0].device)
        with frozen_weights(self._base.model), torch.enable_grad():
            matrices = trained.begin(asked.reached([layer])[layer])
            adam = torch.optim.AdamW(matrices, lr=self._rate[layer], weight_decay=0.0)
            for step in range(self._options.steps):
                pairs = zip((asked, kept), goals, strict=True)
                loss = torch.stack([distance(one, layer, goal) for one, goal in pairs]).sum()
                check_finite(loss.detach().cpu(), "the losses of training", f"of layer {layer}")
                adam.zero_grad()
                torch.autograd.backward(loss)
                adam.step()
                if self._progress is not None:
                    self._progress("training", step + 1, self._options.steps)
        trained.end()


def distance(run: ResumedPass, layer: int, goal: Tensor) -> Tensor:
    """The mean square of a layer's output from a goal (B, S, d_m), over all tokens but padding."""
    found = run.states(layer).float()  # (B, S, d_m)
    return functional.mse_loss(found[run.real], goal[run.real])


def _results(found: Targets) -> list[dict[str, JsonValue]]:
    return [
        {
            "loss_before": round(found.loss_before[i], 4),
            "loss_target": round(found.loss_after[i], 4),
            "margin": round(found.margin[i], 4),
            "steps": found.steps[i],
            "ended": found.ended[i],
        }
        for i in range(len(found.steps))
    ]


def _corpus(base: Base, options: UnKEOptions, progress: Progress | None) -> Corpus:
    """The preserved text: what is given, or what the base writes itself."""
    if options.corpus is not None:
        return read_corpus(options.corpus, base.reader, options.corpus_tokens)
    tell = None if progress is None else partial(progress, "own text")
    return Corpus(NAME, own_prose(base, options.preserved, progress=tell))
