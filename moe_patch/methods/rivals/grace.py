"""GRACE: a codebook beside one layer, with a key, a trained value and a radius for each edit.

Hartvigsen et al., NeurIPS 2023 (arXiv 2211.11031). Near a key, the key's value takes the place of the block's
output at the prompt (`moe_patch.bypass.codebook`); what keys there are is decided by the paper's rules
(`deferral`), one fact after the other. A fact that the model says already needs no edit, as in the paper.
Iterations, radius and the cold start are those of the public code's configuration.

Departures. The codebook stands beside the whole feed-forward block, not beside one of its linear layers. Rate
and first values are in units of a coordinate of the stream, so that they mean the same on every model.
Queries and radii do not depend on values, so all keys are found first and values are trained in batches, each
for all facts of its key. Two answers are the same label if their tokens are; the public code compares means
of token ids. With "prompt", that code leaves out the prompt's last token; here it is replaced too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from moe_patch.base.blocks import Block, block_input, find_block, with_replaced
from moe_patch.base.capture import run_decoder
from moe_patch.base.freezing import frozen_weights
from moe_patch.base.model import Base
from moe_patch.bypass.codebook import Codebook, CodebookConfig, Replaced, last_tokens, replaced_tokens
from moe_patch.bypass.codebook_file import write_codebook
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact, pad_right, pad_token
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import Encoded, score_encoded
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.memoe.options import Layer
from moe_patch.methods.memoe.units import stream_scale
from moe_patch.methods.rivals.deferral import KeySet, take_all
from moe_patch.methods.rivals.finished import finished_patch
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import plain_logits

_SLOWER = "train more slowly (--set learning_rate=...)"
_FACTS = 64  # in a pass that only reads


class GRACEOptions(MethodOptions):
    """Options of GRACE."""

    layer: Layer = Field(None, description="The decoder layer that the codebook stands beside.")
    epsilon: float = Field(
        1.0, ge=0, le=1e30, description="Radius of a new key, in the units of the block's input."
    )
    steps: int = Field(100, ge=1, description="Adam's steps for each value.")
    learning_rate: float = Field(1.0, gt=0, le=1e6, description="Adam's rate, in units of `scale`.")
    scale: float | None = Field(
        None, gt=0, le=1e6, description="Size of a value at the start; unset: of a coordinate in the stream."
    )
    replace: Replaced = Field(
        "prompt", description="Where a value stands for the block's output: at the prompt, or its last token."
    )
    edit_known: bool = Field(False, description="Edit facts that the model says already, too.")
    facts_per_step: int = Field(32, ge=1, description="Facts that are trained in one pass.")
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the values at the start.")

    @property
    def style(self) -> PromptStyle:
        """How facts become text."""
        return PromptStyle(self.chat, "last")


class GRACE(Method[GRACEOptions]):
    """The method, in the registry as `grace`."""

    name = "grace"
    pretty_name = "GRACE"
    changes = "nothing: replaces one layer's output near stored keys"
    kind = "bypass"
    rival = True
    Options = GRACEOptions
    edits_dense = True

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2211.11031"

    def build(
        self, base: Base, facts: Sequence[Fact], options: GRACEOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of kind "bypass" that holds a codebook.

        Raises:
            ConfigError: there are no facts, no layer is named, or the model says all facts already.
            ModelError: the layer does not exist or has no block that a codebook can stand beside.
            NumericalError: a state or a loss is not finite.
            TargetError: a fact's answer has no token of its own.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        if options.layer is None:
            raise ConfigError(
                f"no layer for the codebook: name one with --layers, from 0 to {base.num_layers - 1}"
            )
        built = _Build(base, facts, options, options.layer)
        codebook, results = built.run(progress)
        parameters, tensors = write_codebook(codebook, built.key)
        return finished_patch(
            self,
            base,
            facts,
            fingerprint=base.fingerprint([options.layer], progress),
            hyperparameters=options.model_dump(mode="json") | parameters,
            results=results,
            bypass={name: tensor.cpu() for name, tensor in tensors.items()},
            progress=progress,
        )


class _Build:
    """The keys of all facts, and the training of their values."""

    def __init__(self, base: Base, facts: Sequence[Fact], options: GRACEOptions, layer: int) -> None:
        self._base, self._facts, self._options = base, facts, options
        self._block = find_block(base, layer)
        self._texts = [encode_fact(base.reader, fact, options.style) for fact in facts]
        self.key = torch.full((len(facts),), -1)  # (T,) the key of each fact, -1 for a fact that needs none

    def run(self, progress: Progress | None) -> tuple[Codebook, list[dict[str, JsonValue]]]:
        """The codebook, and for each fact its loss before the edit and its key."""
        options, base, width = self._options, self._base, self._base.hidden_size
        encoded = [Encoded(text.ids, _answer_start(text)) for text in self._texts]
        before = score_encoded(base, encoded, batch_size=_FACTS, progress=progress, stage="facts before")
        edited = [n for n, score in enumerate(before) if options.edit_known or not score.exact]
        if not edited:
            raise ConfigError(
                "the model says all facts already, so there is nothing to edit: edit them all the same with "
                "--set edit_known=true"
            )
        keys = KeySet(options.epsilon)
        texts = [self._texts[n] for n in edited]
        self.key[edited] = take_all(keys, self._queries(texts), [t.ids[_answer_start(t) :] for t in texts])
        codebook = Codebook(
            CodebookConfig(layer=self._block.index, width=width, keys=len(keys.keys), tokens=options.replace)
        )
        codebook.key.data = torch.stack(keys.keys)
        codebook.radius.data = torch.tensor(keys.radii)
        codebook.value.data = self._trained(len(keys.keys), edited, progress)
        results: list[dict[str, JsonValue]] = [
            {"loss_before": round(-score.logprob, 4), "key": int(key)}
            for score, key in zip(before, self.key, strict=True)
        ]
        return codebook.requires_grad_(False), results

    def _queries(self, texts: Sequence[Prompt]) -> Tensor:
        """The block's inputs (n, d_m) fp32 at the last tokens of prompts, which no value changes."""
        found: list[Tensor] = []
        for start in range(0, len(texts), _FACTS):
            some = [
                Prompt(text.ids[: _answer_start(text)], text.edited) for text in texts[start : start + _FACTS]
            ]
            batch = pad_right(some, pad_token(self._base.tokenizer)).to(self._base.device)
            last = last_tokens(batch.mask.bool())

            def keep(
                _module: nn.Module, arguments: Any, named: Any, last: tuple[Tensor, Tensor] = last
            ) -> None:
                entered = block_input(self._block, arguments, named)  # (B, S, d_m)
                found.append(entered[last[0].to(entered.device), last[1].to(entered.device)].float().cpu())

            hook = self._block.module.register_forward_pre_hook(keep, with_kwargs=True)
            try:
                run_decoder(self._base, batch.ids, batch.mask, self._block.index)
            finally:
                hook.remove()
        queries = torch.cat(found)
        check_finite(queries, "hidden states", f"before the block of layer {self._block.index}")
        return queries

    def _trained(self, count: int, edited: Sequence[int], progress: Progress | None) -> Tensor:
        """The values (n, d_m) fp32 of all keys, each trained for the facts that have its key."""
        options, device = self._options, self._block.device
        scale = options.scale or stream_scale(self._base, self._block.index, self._facts, options.style)
        source = torch.Generator().manual_seed(options.seed)
        values = scale * torch.rand(count, self._base.hidden_size, generator=source)  # (n, d_m)
        order = sorted(edited, key=lambda n: int(self.key[n]))  # the facts of a key are trained together
        batches = _batches(order, self.key, options.facts_per_step)
        with frozen_weights(self._base.model), torch.enable_grad():
            for number, batch in enumerate(batches):
                own, place = torch.unique(self.key[batch], return_inverse=True)  # (m,) and (B,)
                value = values[own].to(device).requires_grad_()
                texts = [self._texts[n] for n in batch]
                adam = torch.optim.Adam([value], lr=options.learning_rate * scale)
                for step in range(options.steps):
                    adam.zero_grad()
                    losses = self._losses(texts, value, place.to(device))
                    check_finite(losses.detach().cpu(), "the losses of training", do=_SLOWER)
                    losses.sum().backward()  # each value has its own facts, and Adam no scale
                    adam.step()
                    if progress is not None:
                        done = number * options.steps + step + 1
                        progress("values", done, len(batches) * options.steps)
                values[own] = value.detach().cpu()
        return values

    def _losses(self, texts: Sequence[Prompt], value: Tensor, place: Tensor) -> Tensor:
        """The losses (B,) of the answers, with value (m, d_m) number `place` (B,) at each prompt."""
        answers = Answers.of(texts)
        hook = self._block.module.register_forward_hook(
            _replacing(self._block, texts, self._options.replace, value, place), with_kwargs=True
        )
        try:
            return answers.nll(plain_logits(self._base, texts, answers.reads))
        finally:
            hook.remove()


def _replacing(block: Block, texts: Sequence[Prompt], tokens: Replaced, value: Tensor, place: Tensor) -> Any:
    """A forward hook that puts values in the place of the block's output, as the codebook will."""
    longest = max(len(text.ids) for text in texts)
    starts = torch.tensor([_answer_start(text) for text in texts])
    prompt = torch.arange(longest) < starts[:, None]  # (B, S)
    row, column = replaced_tokens(prompt, tokens).nonzero(as_tuple=True)

    def replace(_module: nn.Module, arguments: Any, named: Any, output: Any) -> Any:
        shape = block_input(block, arguments, named).shape
        rows, columns = row.to(value.device), column.to(value.device)
        return with_replaced(output, rows, columns, value[place[rows]], shape)

    return replace


def _answer_start(text: Prompt) -> int:
    """Index of the first token of the answer of a text that was encoded with one."""
    assert text.target is not None
    return text.target


def _batches(order: Sequence[int], key: Tensor, size: int) -> list[list[int]]:
    """Facts in batches of about `size`, those of one key in one batch; `order` has them key by key."""
    batches: list[list[int]] = []
    for number in order:
        same = bool(batches) and int(key[batches[-1][-1]]) == int(key[number])
        if batches and (same or len(batches[-1]) < size):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches
