"""Fine-tuning experts: what `ft`, `ft-l`, `ft-m` and `locft-bf` have in common.

Matrices that are added to the down projections of the edit layers are trained by Adam on the facts' own
texts, in fp32, with the base frozen. Only experts that the facts' tokens reach are trained. In a single edit
layer these stay the same, since nothing that decides them changes; in higher ones, an expert that a fact
reaches only because of the training below is left out.

The loop is that of ROME's baseline (arXiv 2202.05262, appendix E.1, and its public code): epochs over the
facts in order, in mini-batches; a mini-batch whose loss is small enough changes nothing, and training ends
after an epoch whose mean loss is. Its batch of edits is `batch_size` here: each starts from where the one
before it ended, with a new optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from moe_patch.base.freezing import frozen_weights
from moe_patch.base.keys import key_rows, measure_keys
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import FactToken, PromptStyle, encode_fact
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import split_batches
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.delta import edit_layers
from moe_patch.methods.rivals.examples import Example, LossOn, answers_of, encode_example
from moe_patch.methods.rivals.finished import finished_patch
from moe_patch.methods.rivals.resumed_pass import ResumedPass, can_resume
from moe_patch.methods.rivals.trained_layer import TrainedLayer
from moe_patch.methods.rivals.weight_units import UNITS_HELP, Units, weight_unit
from moe_patch.patch import LayerDelta, Patch
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers

_SLOWER = "train more slowly (--set learning_rate=...)"


class FineTuningOptions(MethodOptions):
    """Options of fine-tuning. Rate, steps and where it stops are those of ROME's public code."""

    layers: tuple[int, ...] = Field((), description="Decoder layers whose experts are trained.")
    batch_size: int | None = Field(
        1, ge=1, description="Facts trained together, one batch after the other; unset: all of them."
    )
    learning_rate: float = Field(5e-4, gt=0, le=1e30, description="Adam's.")
    units: Units = Field("published", description=UNITS_HELP)
    steps: int = Field(25, ge=1, description="Most epochs over the facts of a batch.")
    stop_loss: float = Field(0.01, ge=0, description="Loss, in nats a token, at which training ends.")
    facts_per_step: int = Field(64, ge=1, description="Facts in a mini-batch.")
    shuffle: bool = Field(False, description="Draw the mini-batches anew in each epoch.")
    loss_on: LossOn = Field(
        "text",
        description="Tokens that are trained: all of prompt and answer (text), those of the answer (answer), "
        "or those of the answer, each predicted at the prompt's last token (prompt-end).",
    )
    end: bool = Field(False, description="Train the end of text after the answer.")
    bound: float | None = Field(
        None, gt=0, description="Most by which a batch may change an element of a weight; null: no bound."
    )
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")
    fact_token: FactToken = Field(
        "last", description="The token whose keys are recorded as the fact's; training does not use it."
    )
    facts_per_pass: int = Field(
        16, ge=1, description="Facts in a pass; memory grows with it, results do not change."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the mini-batches.")

    @property
    def style(self) -> PromptStyle:
        """How facts become text."""
        return PromptStyle(self.chat, self.fact_token)


FineTuningOptionsT = TypeVar("FineTuningOptionsT", bound=FineTuningOptions)


class FineTuning(Method[FineTuningOptionsT]):
    """A method that trains experts on the facts' texts; its options say how."""

    changes = "down projections of the experts that facts reach, trained"
    rival = True

    def build(
        self, base: Base, facts: Sequence[Fact], options: FineTuningOptionsT, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of dense changes.

        Raises:
            ConfigError: there are no facts or no edit layers, or the tokenizer has no end of text to train.
            ModelError: a layer cannot be edited.
            NumericalError: a loss is not finite.
            TargetError: a fact's subject or answer has no token of its own.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        layers = edit_layers(base, options)
        read = partial(encode_example, base, style=options.style)
        examples = [read(fact, loss_on=options.loss_on, end=options.end) for fact in facts]
        answers = [read(fact, loss_on="answer", end=False) for fact in facts]
        fingerprint = base.fingerprint(layers, progress)
        trainer = FineTuner(base, layers, options, progress)
        results: list[dict[str, JsonValue]] = []
        size = options.batch_size or len(facts)
        try:
            for start in range(0, len(facts), size):
                before = trainer.losses(answers[start : start + size])
                epochs = trainer.learn(examples[start : start + size])
                results += [{"loss_before": round(loss, 4), "epochs": epochs} for loss in before]
                if progress is not None:
                    progress("facts edited", min(start + size, len(facts)), len(facts))
            deltas = trained_deltas(base, facts, trainer.layers, options.style, options.facts_per_pass)
        finally:
            trainer.off()
        return finished_patch(
            self,
            base,
            facts,
            fingerprint=fingerprint,
            hyperparameters=options.model_dump(mode="json") | {"layers": list(layers)},
            results=results,
            layers=deltas,
            progress=progress,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """Some examples that are run together."""

    run: ResumedPass
    answers: Answers

    def loss(self) -> Tensor:
        """(B,) the mean loss of each example in nats a token."""
        return self.answers.nll(self.run.logits(self.answers.reads))


_Step = list[_Pass]  # the passes of one mini-batch


class FineTuner:
    """The changes of all edit layers, and the training of one batch of facts after the other."""

    def __init__(
        self,
        base: Base,
        layers: Sequence[int],
        options: FineTuningOptions,
        progress: Progress | None = None,
    ) -> None:
        self.layers = {layer: TrainedLayer(base, layer) for layer in layers}
        self._base, self._options, self._first = base, options, min(layers)
        self._unit = {layer: weight_unit(base.layer(layer), options.units) for layer in layers}
        self._source = torch.Generator().manual_seed(options.seed)
        self._resume: bool | None = None
        self._progress = progress

    @torch.no_grad()
    def losses(self, examples: Sequence[Example]) -> list[float]:
        """The mean loss of each example now, in nats a token."""
        steps = self._steps(examples, range(len(examples)), resume=False)
        return torch.cat([one.loss() for step in steps for one in step]).tolist()

    def learn(self, examples: Sequence[Example]) -> int:
        """Train on a batch of examples. Returns the number of epochs.

        Raises:
            NumericalError: a loss is not finite.
        """
        if self._resume is None:
            self._resume = can_resume(self._base, examples[0].prompt, self._first)
        steps = self._steps(examples, range(len(examples)))
        with frozen_weights(self._base.model), torch.enable_grad():
            adam = torch.optim.Adam(self._begin(steps))
            epochs = self._train(examples, steps, adam)
        for layer in self.layers.values():
            layer.end()
        return epochs

    def off(self) -> None:
        """Take all changes off the model; they are kept."""
        for layer in self.layers.values():
            layer.off()

    def _begin(self, steps: Sequence[_Step]) -> list[dict[str, Any]]:
        """The matrices of all experts that the examples reach, on the model, with each layer's rate."""
        options, reached = (
            self._options,
            [one.run.reached(list(self.layers)) for step in steps for one in step],
        )
        return [
            {
                "params": layer.begin(
                    {expert for found in reached for expert in found[index]},
                    bounded=options.bound is not None,
                ),
                "lr": options.learning_rate * self._unit[index],
            }
            for index, layer in self.layers.items()
        ]

    def _train(self, examples: Sequence[Example], steps: Sequence[_Step], adam: torch.optim.Adam) -> int:
        """The number of epochs until the loss is small enough, or there are no more."""
        options = self._options
        redrawn = options.shuffle and len(steps) > 1
        for epoch in range(1, options.steps + 1):
            if redrawn:
                steps = self._steps(
                    examples, torch.randperm(len(examples), generator=self._source).tolist(), resume=False
                )
            losses = [self._step(step, adam) for step in steps]
            if self._progress is not None:
                self._progress("training", epoch, options.steps)
            if float(torch.cat(losses).mean()) < options.stop_loss:
                return epoch
        return options.steps

    def _step(self, step: _Step, adam: torch.optim.Adam) -> Tensor:
        """One step of the optimiser, unless the loss is small enough. Returns the losses (B,) before it."""
        count = sum(len(one.answers.lengths) for one in step)
        adam.zero_grad()
        losses = []
        for one in step:
            loss = one.loss()  # (b,)
            check_finite(loss.detach().cpu(), "the losses of training", "of a mini-batch", do=_SLOWER)
            torch.autograd.backward(loss.sum() / count)
            losses.append(loss.detach().cpu())
        found = torch.cat(losses)
        if float(found.mean()) >= self._options.stop_loss:
            adam.step()
            if self._options.bound is not None:
                for index, layer in self.layers.items():
                    layer.hold(self._options.bound * self._unit[index])
        return found

    def _steps(
        self, examples: Sequence[Example], order: Sequence[int], *, resume: bool = True
    ) -> list[_Step]:
        """The examples in this order, as mini-batches."""
        options = self._options
        return [
            [
                self._pass([examples[i] for i in some], resume)
                for some in split_batches(step, options.facts_per_pass)
            ]
            for step in split_batches(order, options.facts_per_step)
        ]

    def _pass(self, examples: Sequence[Example], resume: bool) -> _Pass:
        prompts = [example.prompt for example in examples]
        resumed = bool(self._resume) and resume
        return _Pass(ResumedPass(self._base, prompts, self._first, resume=resumed), answers_of(examples))


def trained_deltas(
    base: Base, facts: Sequence[Fact], layers: dict[int, TrainedLayer], style: PromptStyle, per_pass: int
) -> dict[int, LayerDelta]:
    """The trained changes as they go into a patch, with the facts' own rows, measured with them on."""
    prompts = [encode_fact(base.reader, fact, style, answer=False) for fact in facts]
    calls, _ = measure_keys(base, prompts, list(layers), max(layers), per_pass)
    found = {}
    for index, trained in layers.items():
        layer = base.layer(index)
        rows = key_rows(calls[index], layer.num_experts, len(facts), None)
        found[index] = LayerDelta.whole(trained.dense(), rows, layer.d_model)
    return found
