"""Training adapters on facts: what `lora` and `adalora` have in common.

Adapters of the experts that the facts' texts reach are trained by Adam on the answers' tokens, in fp32, with
the base frozen. In a single edit layer these experts stay the same while it is trained. In higher ones, an
expert that a fact reaches only because of the training below is left out. Each batch of facts starts from
where the one before it ended, with a new optimiser.

Rank, alpha, rate, epochs and weight decay are those of EasyEdit's LoRA (arXiv 2308.07269, and its public
code), which the papers on editing experts compare with. Departures: it adapts the attention's queries and
values in all layers, and here the experts' down projections of the edit layers are adapted, since that is
what patches hold. There is no dropout, which PEFT has none of for parameters of experts either. A mini-batch
has 32 facts, where that code has one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from moe_patch.base.capture import observe_experts
from moe_patch.base.freezing import frozen_weights
from moe_patch.base.keys import key_rows, measure_keys
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact, pad_right, pad_token
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import split_batches
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.delta import edit_layers
from moe_patch.methods.rivals.adapted_experts import AdaptedExperts, ExpertShapes, FactorsOf
from moe_patch.methods.rivals.finished import finished_patch
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import plain_logits

_SLOWER = "train more slowly (--set learning_rate=...)"
_FACTS = 64  # in a pass that only reads


class AdapterOptions(MethodOptions):
    """Options of trained adapters."""

    layers: tuple[int, ...] = Field((), description="Decoder layers whose experts are adapted.")
    batch_size: int | None = Field(
        None, ge=1, description="Facts trained together, one batch after the other; unset: all of them."
    )
    rank: int = Field(8, ge=1, le=2**12, description="r, the rank of an expert's adapter.")
    alpha: float = Field(
        32.0, gt=0, le=1e6, description="alpha; what an adapter adds is scaled by alpha / r."
    )
    learning_rate: float = Field(5e-3, gt=0, le=1e30, description="Adam's.")
    weight_decay: float = Field(0.0, ge=0, description="Adam's.")
    steps: int = Field(70, ge=1, description="Most epochs over the facts of a batch.")
    facts_per_step: int = Field(32, ge=1, description="Facts in a mini-batch.")
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the adapters' first values.")

    @property
    def style(self) -> PromptStyle:
        """How facts become text; the keys that are recorded as a fact's own are those of its last token."""
        return PromptStyle(self.chat, "last")


AdapterOptionsT = TypeVar("AdapterOptionsT", bound=AdapterOptions)


class AdapterMethod(Method[AdapterOptionsT]):
    """A method that trains adapters of PEFT: it says which, what their factors are, and what a step is."""

    changes = "down projections of the experts that facts reach, by trained adapters"
    rival = True

    @abstractmethod
    def adapter(self, shapes: ExpertShapes, options: AdapterOptionsT, steps: int) -> Any:
        """PEFT's tuner over `shapes`, for a training of so many steps.

        Raises:
            ConfigError: PEFT is not installed, or refuses the options.
        """

    @abstractmethod
    def factors(self, linear: Any) -> tuple[Tensor, Tensor]:
        """Left (r, d_m) and right (r, d_k) factors of an adapted linear layer."""

    def stepped(self, tuner: Any, step: int) -> None:
        """Called after the optimiser's step number `step`, from 1, with its gradients; does nothing here."""

    def stop_loss(self, options: AdapterOptionsT) -> float:
        """The loss, in nats a token, below which a mini-batch changes nothing and training ends; 0: none."""
        return 0.0

    def build(
        self, base: Base, facts: Sequence[Fact], options: AdapterOptionsT, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of kind "delta", whose rows are the adapters' factors.

        Raises:
            ConfigError: there are no facts or no edit layers, or PEFT is not installed.
            ModelError: a layer cannot be edited.
            NumericalError: a loss is not finite.
            TargetError: a fact's answer has no token of its own.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        layers = edit_layers(base, options)
        fingerprint = base.fingerprint(layers, progress)
        training = _Training(self, base, layers, facts, options)
        results = training.run(progress)
        return finished_patch(
            self,
            base,
            facts,
            fingerprint=fingerprint,
            hyperparameters=options.model_dump(mode="json") | {"layers": list(layers)},
            results=results,
            layers=training.deltas(),
            progress=progress,
        )


class _Training:
    """The adapters of one build, and the training of one batch of facts after the other."""

    def __init__(
        self,
        method: AdapterMethod[Any],
        base: Base,
        layers: Sequence[int],
        facts: Sequence[Fact],
        options: AdapterOptions,
    ) -> None:
        self._method, self._base, self._options = method, base, options
        self._layers, self._facts = layers, facts
        self._texts = [encode_fact(base.reader, fact, options.style) for fact in facts]
        self._batches = list(split_batches(self._texts, options.batch_size or len(facts)))
        shapes = ExpertShapes(
            [base.layer(layer) for layer in layers], reached_experts(base, self._texts, layers)
        )
        total = sum(options.steps * len(list(self._steps(batch))) for batch in self._batches)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._tuner = method.adapter(shapes, options, total)
        factors_of: FactorsOf = method.factors
        self._adapters = AdaptedExperts(base, shapes, factors_of)
        shapes.forward = self._forward  # a tuner runs its module, and may add a penalty to the loss
        self._done, self._total = 0, total

    def run(self, progress: Progress | None) -> list[dict[str, JsonValue]]:
        """Train. Returns for each fact the loss of its answer before its batch, and the batch's epochs."""
        results: list[dict[str, JsonValue]] = []
        with frozen_weights(self._base.model), torch.enable_grad():
            for number, batch in enumerate(self._batches):
                losses = self._losses(batch)
                epochs = self._learn(batch, number, progress)
                results += [{"loss_before": round(loss, 4), "epochs": epochs} for loss in losses]
        return results

    def deltas(self) -> dict[int, LayerDelta]:
        """The adapters as they go into a patch."""
        return self._adapters.deltas(self._own_rows())

    def _learn(self, batch: Sequence[Prompt], number: int, progress: Progress | None) -> int:
        """Train on one batch. Returns the number of epochs."""
        options, steps = self._options, list(self._steps(batch))
        trained = [weight for weight in self._tuner.parameters() if weight.requires_grad]
        adam = torch.optim.Adam(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        stop = self._method.stop_loss(options)
        for epoch in range(1, options.steps + 1):
            losses = [self._step(step, adam, stop) for step in steps]
            if progress is not None:
                progress("training", number * options.steps + epoch, len(self._batches) * options.steps)
            if float(torch.cat(losses).mean()) < stop:
                return epoch
        return options.steps

    def _step(self, texts: Sequence[Prompt], adam: torch.optim.Adam, stop: float) -> Tensor:
        """One step of the optimiser, unless the loss is small enough. Returns the losses (B,) before it."""
        adam.zero_grad()
        output = self._tuner(texts)
        losses: Tensor = output.losses.detach().cpu()  # (B,)
        check_finite(losses, "the losses of training", "of a mini-batch", do=_SLOWER)
        self._done += 1
        if float(losses.mean()) >= stop:
            output.loss.backward()
            adam.step()
            self._method.stepped(self._tuner, self._done)
        return losses

    def _forward(self, texts: Sequence[Prompt]) -> SimpleNamespace:
        """The losses (B,) of the answers with the adapters on, and their mean, to which a tuner may add."""
        answers = Answers.of(texts)
        with self._adapters.on():
            losses = answers.nll(plain_logits(self._base, texts, answers.reads))
        return SimpleNamespace(loss=losses.mean(), losses=losses)

    @torch.no_grad()
    def _losses(self, texts: Sequence[Prompt]) -> list[float]:
        return [loss for some in split_batches(texts, _FACTS) for loss in self._forward(some).losses.tolist()]

    def _steps(self, batch: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        return split_batches(batch, self._options.facts_per_step)

    def _own_rows(self) -> dict[int, Rows]:
        """The facts' own rows, measured with the adapters on."""
        base, style = self._base, self._options.style
        prompts = [encode_fact(base.reader, fact, style, answer=False) for fact in self._facts]
        with self._adapters.on(), torch.no_grad():
            calls, _ = measure_keys(base, prompts, self._layers, max(self._layers), _FACTS)
        return {
            layer: key_rows(calls[layer], base.layer(layer).num_experts, len(prompts), None)
            for layer in self._layers
        }


def reached_experts(base: Base, texts: Sequence[Prompt], layers: Sequence[int]) -> dict[int, list[int]]:
    """The experts that tokens of the texts reach, ascending, by layer."""
    found: dict[int, set[int]] = {layer: set() for layer in layers}

    def heard(layer: int) -> Any:
        return lambda expert, *_: found[layer].add(expert)

    with observe_experts(base, {layer: heard(layer) for layer in layers}) as watch:
        for some in split_batches(texts, _FACTS):
            batch = pad_right(some, pad_token(base.tokenizer)).to(base.device)
            watch.forward(batch.ids, batch.mask)
    return {layer: sorted(experts) for layer, experts in found.items()}
