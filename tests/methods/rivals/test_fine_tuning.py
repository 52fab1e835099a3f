"""Fine-tuned experts: gradients, bounds, what the loss is taken on, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.experts import attach_matrices
from moe_patch.base.model import Base
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.methods.rivals.examples import LossOn, answers_of, encode_example, end_of_text
from moe_patch.methods.rivals.fine_tuning import FineTuner, FineTuningOptions
from moe_patch.methods.rivals.resumed_pass import ResumedPass
from moe_patch.patch import Patch, load, save
from tests.methods.builds import facts, snapshot, unchanged
from tests.tiny import tiny_base

METHODS = ["ft", "ft-l", "ft-m", "locft-bf"]
LAYER = 1
STYLE = PromptStyle(fact_token="last")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def tuned(base: Base, method: str = "ft-m", count: int = 3, **options: Any) -> Patch:
    chosen = get_method(method)
    settings: dict[str, Any] = {"layers": (LAYER,), "learning_rate": 0.01, "steps": 4}
    return chosen.build(base, facts(count), chosen.options(**(settings | options)))


def learn(base: Base, count: int = 3, layer: int = LAYER, **options: Any) -> tuple[FineTuner, list[int]]:
    """A trainer that has learnt, and is off; and the epochs of each of its batches."""
    settings: dict[str, Any] = {"learning_rate": 0.01, "steps": 4, "loss_on": "answer"}
    chosen = FineTuningOptions(**(settings | options))
    examples = [encode_example(base, fact, STYLE, chosen.loss_on, end=chosen.end) for fact in facts(count)]
    trainer, size = FineTuner(base, [layer], chosen), chosen.batch_size or count
    epochs = [trainer.learn(examples[start : start + size]) for start in range(0, count, size)]
    trainer.off()
    return trainer, epochs


def matrices(trained: tuple[FineTuner, list[int]], layer: int = LAYER) -> dict[int, Tensor]:
    dense = trained[0].layers[layer].dense()
    return {} if dense is None else dict(zip(dense.experts(), dense.value, strict=True))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("layer", [1, 2])
def test_gradients_are_finite_differences(model_type: str, layer: int) -> None:
    base = tiny_base(model_type)
    base.model.double().set_experts_implementation("eager")  # others have no fp64
    examples = [encode_example(base, fact, STYLE, "answer", end=False) for fact in facts(2)]
    answers = answers_of(examples)
    run = ResumedPass(base, [example.prompt for example in examples], layer)
    place = base.layer(layer)
    change = torch.zeros(place.d_model, place.d_key, dtype=torch.float64, requires_grad=True)
    expert = run.reached([layer])[layer][0]

    def loss() -> Tensor:
        return answers.nll(run.logits(answers.reads)).sum()

    with attach_matrices(place, {expert: change}):
        (gradient,) = torch.autograd.grad(loss(), change)
        largest = gradient.abs().flatten().topk(5).indices
        for flat in largest.tolist():
            at, step = divmod(flat, place.d_key), 1e-3
            with torch.no_grad():
                change[at] += step
                above = float(loss())
                change[at] -= 2 * step
                below = float(loss())
                change[at] += step
            slope = (above - below) / (2 * step)  # logits are read in fp32
            assert slope == pytest.approx(float(gradient[at]), rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_answers_become_likelier_and_the_base_stays(base: Base, method: str) -> None:
    before = snapshot(base)
    bound = {"bound": 0.05} if method == "ft-l" else {}
    patch = tuned(base, method, batch_size=None, steps=25, **bound)
    assert unchanged(base, before)
    losses = [(result["loss_before"], result["loss_edited"]) for result in patch.results]
    assert all(float(str(after)) < float(str(was)) - 0.3 for was, after in losses)


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_survives_its_file(base: Base, method: str, tmp_path: Path) -> None:
    patch = tuned(base, method, count=2, steps=2)
    save(patch, tmp_path / "p.safetensors")
    found = load(tmp_path / "p.safetensors")
    assert found.hash == patch.hash
    ids = torch.arange(4, 30)[None]
    with torch.no_grad():
        plain = base.model(input_ids=ids).logits
        with apply(base, patch):
            expected = base.model(input_ids=ids).logits
        with apply(base, found):
            assert torch.equal(base.model(input_ids=ids).logits, expected)
    assert not torch.equal(plain, expected)


def test_the_bound_holds_for_each_batch_from_where_it_began(base: Base) -> None:
    bound = 2e-3
    once = learn(base, count=1, bound=bound)
    for value in matrices(once).values():
        assert float(value.abs().max()) == pytest.approx(bound, rel=1e-5)  # at a rate of 0.01, it binds
    twice = matrices(learn(base, count=3, bound=bound))
    furthest = max(float(value.abs().max()) for value in twice.values())
    assert bound < furthest <= 3 * bound * (1 + 1e-5)
    loose = matrices(learn(base, count=1, bound=10.0))
    assert max(float(value.abs().max()) for value in loose.values()) > bound


def test_only_experts_that_the_facts_reach_are_trained(base: Base) -> None:
    (fact,) = facts(1)
    example = encode_example(base, fact, STYLE, "answer", end=False)
    reached = ResumedPass(base, [example.prompt], LAYER).reached([LAYER])[LAYER]
    assert len(reached) > 0
    assert set(matrices(learn(base, count=1))) == set(reached)


@pytest.mark.parametrize("end", [False, True])
def test_what_the_loss_is_taken_on(base: Base, end: bool) -> None:
    (fact,) = facts(1)
    encoded = encode_fact(base.reader, fact, STYLE)
    start, ids = encoded.target, encoded.ids
    assert start is not None
    tail = (end_of_text(base),) if end else ()
    wanted: dict[LossOn, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "text": (tuple(range(len(ids) + len(tail) - 1)), ids[1:] + tail),
        "answer": (tuple(range(start - 1, len(ids) + len(tail) - 1)), ids[start:] + tail),
        "prompt-end": ((start - 1,) * (len(ids[start:]) + len(tail)), ids[start:] + tail),
    }
    for loss_on, (place, token) in wanted.items():
        example = encode_example(base, fact, STYLE, loss_on, end=end)
        assert (example.place, example.token) == (place, token)
        assert len(example.prompt.ids) == max(place) + 1  # nothing is run that no loss depends on


def test_the_losses_are_those_of_the_models_own_logits(base: Base) -> None:
    chosen = facts(3)
    for loss_on in ("text", "answer", "prompt-end"):
        examples = [encode_example(base, fact, STYLE, loss_on, end=True) for fact in chosen]
        trainer = FineTuner(base, [LAYER], FineTuningOptions(facts_per_pass=2))
        for example, found in zip(examples, trainer.losses(examples), strict=True):
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([example.prompt.ids])).logits[0]
            logp = logits.log_softmax(-1)
            expected = -sum(
                float(logp[at, token]) for at, token in zip(example.place, example.token, strict=True)
            )
            assert found == pytest.approx(expected / len(example.place), rel=1e-4)


def test_each_method_has_its_papers_loss() -> None:
    losses = {name: get_method(name).options().loss_on for name in METHODS}
    assert losses == {"ft": "text", "ft-l": "prompt-end", "ft-m": "answer", "locft-bf": "answer"}
    assert [name for name in METHODS if get_method(name).options().end] == ["locft-bf"]
    assert [name for name in METHODS if get_method(name).options().bound] == ["ft-l"]
    assert [name for name in METHODS if get_method(name).options().batch_size is None] == ["locft-bf"]


def test_smaller_passes_and_resuming_give_the_same_training(base: Base) -> None:
    options: dict[str, Any] = {"batch_size": None, "facts_per_step": 4, "count": 4, "steps": 3}
    one, other = (matrices(learn(base, **options, facts_per_pass=size)) for size in (1, 4))
    assert one.keys() == other.keys()
    for expert in one:
        torch.testing.assert_close(one[expert], other[expert], atol=2e-3, rtol=1e-2)


def test_a_batch_begins_where_the_one_before_it_ended(base: Base) -> None:
    both = tuned(base, count=2, batch_size=1)
    trainer, _ = learn(base, count=1)
    first = trainer.layers[LAYER]
    example = encode_example(base, facts(2)[1], STYLE, "answer", end=False)
    (untouched,) = trainer.losses([example])
    first.begin([])
    (expected,) = trainer.losses([example])
    first.off()
    assert abs(untouched - expected) > 0.01
    assert float(str(both.results[1]["loss_before"])) == pytest.approx(expected, abs=1e-3)


def test_training_ends_when_the_loss_is_small(base: Base) -> None:
    small = learn(base, count=2, steps=7, stop_loss=1e4)
    assert small[1] == [1, 1]
    assert matrices(small) == {}  # small from the start: nothing was changed
    assert learn(base, count=1, steps=7, stop_loss=0.0)[1] == [7]


def test_a_patch_that_changes_nothing_is_one(base: Base, tmp_path: Path) -> None:
    patch = tuned(base, count=1, stop_loss=1e4)
    assert patch.layers[LAYER].experts() == []
    save(patch, tmp_path / "p.safetensors")
    assert load(tmp_path / "p.safetensors").hash == patch.hash


def test_progress_is_told_by_epoch_and_by_batch(base: Base) -> None:
    told: list[tuple[str, int, int]] = []
    method = get_method("ft-m")
    options = method.options(layers=(LAYER,), steps=2, stop_loss=0.0)
    method.build(base, facts(2), options, lambda *stage: told.append(stage))
    own = [stage for stage in told if stage[0] in ("training", "facts edited")]
    epochs = [("training", 1, 2), ("training", 2, 2)]
    assert own == [*epochs, ("facts edited", 1, 2), *epochs, ("facts edited", 2, 2)]


def test_several_layers_are_trained_together(base: Base) -> None:
    patch = tuned(base, count=2, layers=(0, 2), batch_size=None)
    assert list(patch.layers) == [0, 2]
    for delta in patch.layers.values():
        assert delta.experts()
        assert delta.fact_rows.num_facts == 2


def test_mini_batches_are_drawn_anew_by_their_seed(base: Base) -> None:
    options: dict[str, Any] = {"count": 4, "facts_per_step": 2, "steps": 3, "batch_size": None}
    one, again, other, plain = (
        matrices(learn(base, **options, shuffle=shuffle, seed=seed))
        for seed, shuffle in ((0, True), (0, True), (5, True), (0, False))
    )
    assert all(torch.equal(one[expert], value) for expert, value in again.items())
    assert any(not torch.equal(one[expert], value) for expert, value in other.items())
    assert any(not torch.equal(one[expert], value) for expert, value in plain.items())


def test_half_precision_is_trained_in_single() -> None:
    half = tiny_base("qwen3_moe")
    half.model.bfloat16()
    examples = [encode_example(half, fact, STYLE, "answer", end=False) for fact in facts(2)]
    trainer, _ = learn(half, count=2, batch_size=None, steps=10)
    before = trainer.losses(examples)
    (matrix, *_) = trainer.layers[LAYER].begin(range(8))
    after = trainer.losses(examples)
    trainer.off()
    assert matrix.dtype == torch.float32
    assert all(now < was - 0.1 for was, now in zip(before, after, strict=True))


def test_layers_and_an_end_of_text_are_needed(base: Base) -> None:
    with pytest.raises(ConfigError, match="no edit layers"):
        tuned(base, layers=())
    with pytest.raises(ConfigError, match="no facts"):
        tuned(base, count=0)
    endless = tiny_base("qwen3_moe")
    endless.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="has no end of text"):
        tuned(endless, "locft-bf")
