"""A self-test on one device: build a patch of five facts, apply it, ask the facts, and remove it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.doctor.environment import without_home
from moe_patch.doctor.reference import SelfTestReference
from moe_patch.doctor.report import SelfTestResult, Values
from moe_patch.errors import MoePatchError
from moe_patch.evaluation.scoring import continue_greedily, encode_answer, right_padded, score_answers
from moe_patch.io.cache import fresh_cache
from moe_patch.io.shipped import shipped_folder
from moe_patch.methods import get_method
from moe_patch.methods.recipes import load_recipe
from moe_patch.patch import Patch
from moe_patch.progress import Progress

logger = logging.getLogger(__name__)

FACTS = 5
CORPUS_TOKENS = 20_000  # a fifth of the recipe's corpus: enough for every expert, in a fifth of the time

_EXPECTED = (
    MoePatchError,
    RuntimeError,  # from torch: the device is out of memory, is lost, or lacks a kernel
    TypeError,  # from torch: the device lacks a dtype, as MPS lacks fp64
)


def run_self_test(
    device: str, reference: SelfTestReference, progress: Progress | None = None
) -> SelfTestResult:
    """Run the self-test on a device, given by its torch name. It takes a few seconds on a CPU.

    The cache is not used, so the device computes everything. An error of the library or of torch ends the
    test and is reported in the result.
    """
    started = time.monotonic()
    try:
        with fresh_cache(), _steady():
            figures = measure_figures(device, progress)
    except _EXPECTED as error:
        logger.debug("the self-test on %s ended early", device, exc_info=True)
        message = without_home(" ".join(str(error).split()))
        return SelfTestResult(device, time.monotonic() - started, (), f"{type(error).__name__}: {message}")
    return SelfTestResult(device, time.monotonic() - started, reference.compare(figures))


def measure_figures(device: str, progress: Progress | None = None) -> dict[str, Values]:
    """Build, apply, ask and remove. The values by name of the check; log-probabilities in nats."""
    base = open_base(dtype=torch.float32, device_map=device)
    facts = _facts()
    logits, weights = _logits(base, facts), _weights(base)
    found: dict[str, Values] = {
        "answers of the base": _answers(base, facts),
        "log-probabilities of true answers, base": _logprobs(
            base, facts, [f.target_true or "" for f in facts]
        ),
        "log-probabilities of new answers, base": _logprobs(base, facts, [f.target_new for f in facts]),
    }
    patch = _build(base, facts, progress)
    found["losses of the target values"] = [_number(result["loss_target"]) for result in patch.results]
    with apply(base, patch, mode="merge"):
        change = {layer: now - weights[layer] for layer, now in _weights(base).items()}
        found["norm of the delta by layer"] = [float(change[layer].norm()) for layer in patch.layers]
        found["answers, merged"] = _answers(base, facts)
        merged = _logprobs(base, facts, [fact.target_new for fact in facts])
        found["log-probabilities of new answers, merged"] = merged
    with apply(base, patch, mode="hook"):
        found["answers, hooked"] = _answers(base, facts)
        hooked = _logprobs(base, facts, [fact.target_new for fact in facts])
        found["log-probabilities, hooked less merged"] = [a - b for a, b in zip(hooked, merged, strict=True)]
    found["weights that did not come back"] = [_differing(weights, _weights(base))]
    found["logits that did not come back"] = [_differing({0: logits}, {0: _logits(base, facts)})]
    return found


@contextmanager
def _steady() -> Iterator[None]:
    """Multiply fp32 matrices in fp32, and use one thread.

    TF32 and bf16 are less exact than the tolerances allow. More threads gain nothing on a model this small,
    and they wait for one another when other programs use the cores.
    """
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def _facts() -> Sequence[Fact]:
    return read_facts(shipped_folder() / "facts" / "10.jsonl").facts[:FACTS]


def _build(base: Base, facts: Sequence[Fact], progress: Progress | None) -> Patch:
    method = get_method("moeedit")
    recipe = load_recipe("atlas").method_options(method.name)
    return method.build(base, facts, method.options(**recipe | {"corpus_tokens": CORPUS_TOKENS}), progress)


def _answers(base: Base, facts: Sequence[Fact]) -> list[str]:
    """The model's greedy answers, each as many tokens long as the fact's new answer."""
    wanted = [encode_answer(base, fact.text, fact.target_new) for fact in facts]
    lengths = [len(answer.ids) - answer.first for answer in wanted]
    said = continue_greedily(base, [fact.text for fact in facts], lengths)
    return [str(base.tokenizer.decode(answer.ids[answer.first :])).strip() for answer in said]


def _logprobs(base: Base, facts: Sequence[Fact], answers: Sequence[str]) -> list[float]:
    pairs = [(fact.text, answer) for fact, answer in zip(facts, answers, strict=True)]
    return [score.logprob for score in score_answers(base, pairs)]


@torch.no_grad()
def _logits(base: Base, facts: Sequence[Fact]) -> Tensor:
    """The logits (B, S, V) of the facts' prompts."""
    ids, mask = right_padded(base, [base.reader.read_prompt(fact.text, chat=False) for fact in facts])
    logits: Tensor = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits


def _weights(base: Base) -> dict[int, Tensor]:
    """Copies of all down projections (E, d_m, d_k) by layer."""
    copies = {}
    for index, layer in base.layers.items():
        with layer.weights() as stacked:
            copies[index] = stacked.clone()
    return copies


def _differing(before: dict[int, Tensor], after: dict[int, Tensor]) -> int:
    """How many numbers differ from before."""
    return sum(int((tensor != after[key]).sum()) for key, tensor in before.items())


def _number(value: object) -> float:
    assert isinstance(value, int | float), value  # builds write losses as numbers
    return float(value)
