"""Passes over fixed prompts that begin at a layer: what lies below does not change while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.capture import observe_experts, run_decoder
from moe_patch.base.model import Base
from moe_patch.base.playback import playing_back
from moe_patch.data.prompts import Prompt, pad_right, pad_token
from moe_patch.targets.tail import Reads, plain_logits

logger = logging.getLogger(__name__)


class ResumedPass:
    """B prompts, with the output of the layer below `first` recorded once. Memory: B S d_m numbers."""

    def __init__(self, base: Base, prompts: Sequence[Prompt], first: int, *, resume: bool = True) -> None:
        """Run the prompts up to the layer below.

        Args:
            base: the model, with all deltas that are on below `first`; these must stay as they are.
            prompts: B prompts.
            first: the lowest decoder layer that may change.
            resume: whether passes begin there; otherwise each is whole.
        """
        self._base, self._prompts = base, prompts
        batch = pad_right(prompts, pad_token(base.tokenizer)).to(base.device)
        self._ids, self.real = batch.ids, batch.mask.bool()  # (B, S)
        self._blocks: list[nn.Module] = list(base.decoder_layers[:first]) if resume else []
        self._below = self._output_of(first - 1) if self._blocks else None

    def logits(self, reads: Reads) -> Tensor:
        """Logits (n, V) at the reads, differentiable in what is trained."""
        with self._resumed():
            return plain_logits(self._base, self._prompts, reads)

    def states(self, layer: int) -> Tensor:
        """The output (B, S, d_m) of a decoder layer, with gradients for what is trained if they are on."""
        with self._resumed():
            output = self._output_of(layer, gradients=torch.is_grad_enabled())
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states

    def reached(self, layers: Sequence[int]) -> dict[int, list[int]]:
        """The experts that tokens of the prompts reach, ascending, by layer."""
        found: dict[int, set[int]] = {layer: set() for layer in layers}

        def heard(layer: int) -> Any:
            return lambda expert, *_: found[layer].add(expert)

        with self._resumed(), observe_experts(self._base, {layer: heard(layer) for layer in layers}) as watch:
            watch.forward(self._ids, self.real.long())
        return {layer: sorted(experts) for layer, experts in found.items()}

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        if not self._blocks:
            yield
            return
        with playing_back(self._blocks, self._below):
            yield

    def _output_of(self, layer: int, *, gradients: bool = False) -> Any:
        """What a decoder layer returns."""
        seen: list[Any] = []
        hook = self._base.decoder_layers[layer].register_forward_hook(lambda _m, _i, out: seen.append(out))
        try:
            run_decoder(self._base, self._ids, self.real.long(), layer, gradients=gradients)
        finally:
            hook.remove()
        return seen[0]


@torch.no_grad()
def can_resume(base: Base, prompt: Prompt, first: int) -> bool:
    """Whether passes that begin at a layer give what whole passes give; a warning is logged if they do not.

    In some architectures later layers use more of earlier ones than their output.
    """
    reads = Reads(torch.zeros(1, dtype=torch.int64), torch.tensor([len(prompt.ids) - 1]))
    whole = plain_logits(base, [prompt], reads).float()  # (1, V)
    apart = (ResumedPass(base, [prompt], first).logits(reads).float() - whole).norm() / whole.norm()
    tolerance = max(1e-3, 16 * torch.finfo(base.model.dtype).eps)  # rounding alone stays below this
    if float(apart) <= tolerance:
        return True
    logger.warning(
        "%s: training uses whole passes, which are slower: its layers cannot be run from the middle (logits "
        "are off by %.1f%%)",
        base.name,
        100 * float(apart),
    )
    return False
