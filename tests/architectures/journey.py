"""From a saved model of any type to a patch, to a merged checkpoint, and back: what a user does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.checkpoint import open_checkpoint, plan_merge, unmerge_checkpoint
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt
from moe_patch.errors import ModelError
from moe_patch.evaluation import evaluate
from moe_patch.methods import get_method
from moe_patch.patch import Patch, load, save
from moe_patch.targets.tail import Reads, Tail, WholePass, open_pass
from tests.architectures.configs import VOCABULARY
from tests.architectures.registry import ModelType, tiny_config
from tests.tiny import random_model, tiny_batch, tiny_tokenizer

FACTS = [
    Fact("sea", "A ship sails on the {}", "Baltic", "Nile", "sea"),
    Fact("town", "The river of {}", "Rome", "Peru", "Tiber", paraphrases=("A river in Rome",)),
    Fact("bird", "In the wood sings a {}", "wren", "Lark", "bird"),
]
SEED = 1  # with which no token of the facts skips its experts, as zaya lets tokens do
ROUNDING = 1e-4  # of logits, and of gradients relative to their size


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a type fared: refused with a reason, or all that can be done with a patch holds."""

    refusal: str | None = None
    warning: str | None = None  # why the closed form is not exact
    whole: bool = False  # whether the search for target values has to use whole passes


def travel(model_type: ModelType, folder: Path) -> Outcome:
    """Save a tiny model of this type, open it, and go all the way at its first, middle and last MoE layer.

    Args:
        model_type: the type.
        folder: an empty folder.

    Raises:
        AssertionError: something does not hold.
    """
    model = folder / "base"
    random_model(tiny_config(model_type), SEED).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (folder / "corpus.txt").write_text("A house stands by the sea, and the sun is warm. " * 16)
    try:
        base = open_base(model)
    except ModelError as error:
        return Outcome(refusal=str(error))
    numbers = sorted(base.layers)
    passes = set()
    for layer in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):
        passes |= {_check_gradients(base, layer, short=short) for short in (False, True)}
        (place := folder / str(layer)).mkdir()
        _check_patch(base, _built(base, layer, folder), place)
    warnings = {found.warning for found in base.layers.values() if found.warning}
    return Outcome(warning="; ".join(sorted(warnings)) or None, whole=WholePass in passes)


def _built(base: Base, layer: int, folder: Path) -> Patch:
    method = get_method("moeedit")
    options = method.options(
        layers=[layer],
        corpus=folder / "corpus.txt",
        corpus_tokens=256,
        min_tokens=16,
        energy=0.2,
        unseen="edit",
        targets={"steps": 6, "learning_rate": 0.3},
    )
    patch = method.build(base, FACTS, options)
    before, target = (
        sum(result[f"loss_{when}"] for result in patch.results) for when in ("before", "target")
    )
    assert target < before, f"the search found no better values for layer {layer}"
    # a tiny random model is no place for less: each edit moves the other tokens of its own prompt as well
    assert all(result["loss_edited"] != result["loss_before"] for result in patch.results)
    save(patch, folder / f"{layer}.safetensors")
    return load(folder / f"{layer}.safetensors")


def _check_patch(base: Base, patch: Patch, folder: Path) -> None:
    """The patch beside the weights and on the disk is one; taken out, the bytes are the old ones."""
    ids, mask = tiny_batch()
    plain = _logits(base, ids, mask)
    with apply(base, patch, mode="hook"):
        hooked = _logits(base, ids, mask)
        _ask(base)
    report = evaluate(base, patch)
    assert report.patched.scores.efficacy.n == len(FACTS)
    place = Path(base.name)
    plan_merge(open_checkpoint(place), [patch], folder / "merged").run()
    merged = _logits(open_base(folder / "merged"), ids, mask)
    torch.testing.assert_close(merged, hooked, atol=ROUNDING, rtol=ROUNDING)
    assert not torch.equal(merged, plain)
    assert torch.equal(_logits(base, ids, mask), plain)
    unmerge_checkpoint(folder / "merged", folder / "back", base=place)
    assert _bytes(folder / "back") == _bytes(place)


def _logits(base: Base, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def _ask(base: Base) -> None:
    ids = torch.tensor([base.tokenizer("The river of Rome", add_special_tokens=False)["input_ids"]])
    answer = base.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=2, min_new_tokens=2
    )
    assert answer.shape[1] == ids.shape[1] + 2


def _check_gradients(base: Base, layer: int, *, short: bool) -> type:
    """Gradients of the pass that a search uses against those of whole passes; `short` is one token."""
    prompts, reads = _prompts(short=short)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(reads.row), VOCABULARY, generator=generator)
    change = 0.3 * torch.randn(len(prompts), base.hidden_size, generator=generator)
    used = open_pass(base, prompts, reads, layer)
    found, expected = (
        _gradient(one, change, weight) for one in (used, WholePass(base, prompts, reads, layer))
    )
    assert float((found - expected).norm() / expected.norm()) < ROUNDING, f"gradients of a tail at {layer}"
    return type(used)


def _gradient(one: Tail | WholePass, change: Tensor, weight: Tensor) -> Tensor:
    change = change.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((one.logits(change) * weight).sum(), change)
    return gradient


def _prompts(*, short: bool) -> tuple[Sequence[Prompt], Reads]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((12, 11), (9, 8), (14, 13)) if short else ((12, 5), (9, 0), (14, 9), (7, 6))
    prompts = [
        Prompt(tuple(torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()), edited)
        for length, edited in sizes
    ]
    places = [(row, at) for row, one in enumerate(prompts) for at in range(one.edited, len(one.ids))]
    row, index = torch.tensor(places).T
    return prompts, Reads(row, index)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
