from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from moe_patch.base.capture import attach_delta
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, encode_essence, encode_fact, encode_kept
from moe_patch.elicit.contexts import generate_contexts
from moe_patch.errors import TargetError
from moe_patch.targets.groups import context_prefixes, facts_together
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets, target_losses
from moe_patch.targets.size import stream_size
from moe_patch.targets.values import Targets
from tests import published
from tests.margins import at_least, at_most
from tests.targets.passes import logits_with, stream_after
from tests.taught import ANSWERS, STRONG, SUBJECTS, edit, taught_base
from tests.tiny import tiny_base, tiny_delta

LAYER = 1
FACTS = (
    Fact("rome", "The capital of {} is", "France", "Rome"),
    Fact("one", "{} has", "Oz", "a"),
    Fact("long", "In {}, they speak", "Côte d'Ivoire", "Old Norse"),
    Fact("yen", "One pays in {} with", "Peru", "yen"),
)
QUICK = TargetOptions(
    **published.TARGETS | {"steps": 6, "learning_rate": 0.5, "clamp": 2.0, "stop_loss": 0.0}
)
SCALE_FREE = TargetOptions(steps=6, margin=None)
EAGER = TargetOptions.model_validate(STRONG)
EDITS = tuple(edit(subject, prompt) for subject, prompt in zip(SUBJECTS, ANSWERS, strict=False))


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def nll(base: Base, prompt: Prompt, change: Tensor, layer: int) -> Tensor:
    assert prompt.target is not None
    said = logits_with(base, prompt, change, layer).log_softmax(-1)
    wanted = prompt.ids[prompt.target :]
    return -sum(said[prompt.target - 1 + i, token] for i, token in enumerate(wanted)) / len(wanted)


def units(start: Tensor, options: TargetOptions) -> tuple[float, float, float]:
    """Adam's rate, the weight of ||delta|| and its clamp, for a stream (d_m,)."""
    if options.units == "published":
        norm = start.norm().item()
        return options.learning_rate, options.weight_decay / norm**2, options.clamp * norm
    size = stream_size(start[None]).item()
    rate = options.learning_rate * size / len(start) ** 0.5
    return rate, options.weight_decay / size, options.clamp * size


def memit(
    base: Base, fact: Fact, layer: int, options: TargetOptions, prefixes: tuple[str, ...] = ("",)
) -> tuple[Tensor, list[float]]:
    """MEMIT's search for one fact, written step by step: z*, and the NLL at each step."""
    rewrites = [encode_fact(base.reader, fact, options.style, prefix=prefix) for prefix in prefixes]
    kept = encode_kept(base.reader, fact, options.style)
    held = [(encode_essence(base.reader, fact), options.kl_weight)]
    held += [(prompt, options.keep_weight / len(kept)) for prompt in kept]
    start = stream_after(base, rewrites[0], layer)
    change = torch.zeros_like(start, requires_grad=True)
    rate, decay, clamp = units(start, options)
    adam = torch.optim.Adam([change], lr=rate)
    before = [logits_with(base, prompt, 0 * start, layer)[-1].log_softmax(-1).detach() for prompt, _ in held]
    losses = []
    shares = {options.share, 1.0}
    for step in range(options.steps):
        tried = [nll(base, prompt, share * change, layer) for prompt in rewrites for share in shares]
        loss = torch.stack(tried).mean()
        after = [logits_with(base, prompt, change, layer)[-1].log_softmax(-1) for prompt, _ in held]
        divergence = [
            weight * F.kl_div(old, new, log_target=True, reduction="sum")
            for (_, weight), old, new in zip(held, before, after, strict=True)
        ]
        total = loss + sum(divergence) + decay * change.norm()
        losses.append(loss.item())
        if total < options.stop_loss or step + 1 == options.steps:
            break
        adam.zero_grad()
        total.backward(inputs=[change])
        adam.step()
        with torch.no_grad():
            change *= min(1.0, float(clamp / change.norm()))
    if options.share < 1:  # what is reported is the loss of the whole change
        with torch.no_grad():
            losses[-1] = torch.stack([nll(base, prompt, change, layer) for prompt in rewrites]).mean().item()
    return (start + change).detach(), losses


def assert_like_memit(
    base: Base, facts: tuple[Fact, ...], layer: int, options: TargetOptions, **given: Any
) -> Targets:
    found = find_targets(base, facts, layer, options, **given)
    for number, fact in enumerate(facts):
        value, losses = memit(base, fact, layer, options, **given)
        torch.testing.assert_close(found.value[number], value, atol=2e-3, rtol=2e-3)
        assert found.loss_before[number] == pytest.approx(losses[0], abs=1e-4)
        assert found.loss_after[number] == pytest.approx(losses[-1], abs=2e-3)
        assert found.steps[number] == len(losses)
    return found


@pytest.mark.parametrize(
    "options",
    [
        QUICK,
        QUICK.model_copy(update={"kl_weight": 2.0}),
        QUICK.model_copy(update={"weight_decay": 20.0}),
        QUICK.model_copy(update={"clamp": 0.3}),
        QUICK.model_copy(update={"fact_token": "last"}),
        QUICK.model_copy(update={"steps": 1}),
        SCALE_FREE,
        SCALE_FREE.model_copy(update={"clamp": 0.3}),
        SCALE_FREE.model_copy(update={"weight_decay": 5.0, "kl_weight": 2.0}),
    ],
    ids=["plain", "kl", "decay", "clamp", "last token", "no step", "stream", "stream clamp", "stream decay"],
)
def test_a_batch_is_memit_one_at_a_time(base: Base, options: TargetOptions) -> None:
    assert_like_memit(base, FACTS, LAYER, options)


def test_a_batch_with_prefixes_is_memit_one_at_a_time(base: Base) -> None:
    assert_like_memit(base, FACTS[:2], LAYER, QUICK, prefixes=("", "So it is. ", "I say. "))


def test_a_batch_that_keeps_things_is_memit_with_more_to_hold(base: Base) -> None:
    keeping = (
        replace(FACTS[0], keep=("{} borders", "The people of {} speak")),
        FACTS[1],
        replace(FACTS[2], keep=("{} exports",)),
    )
    options = QUICK.model_copy(update={"keep_weight": 3.0})
    found = assert_like_memit(base, keeping, LAYER, options)
    freely = find_targets(base, FACTS[:3], LAYER, options)
    torch.testing.assert_close(found.value[1], freely.value[1], atol=2e-3, rtol=2e-3)
    assert not torch.allclose(found.value[[0, 2]], freely.value[[0, 2]], atol=1e-2)


def test_facts_of_one_subject_keep_what_any_of_them_asks_to_keep(base: Base) -> None:
    two = (FACTS[0], replace(FACTS[0], id="river", prompt="The river of {} is", target_new="Po"))
    asked = [replace(two[0], keep=("{} borders",)), replace(two[1], keep=("{} borders",))]
    values = [
        find_targets(base, facts, LAYER, QUICK).value for facts in ((asked[0], two[1]), (two[0], asked[1]))
    ]
    torch.testing.assert_close(*values)


def test_what_is_kept_is_held_at_the_subject_alone(base: Base) -> None:
    last = QUICK.model_copy(update={"fact_token": "last"})
    fact = replace(FACTS[0], keep=("{} borders",))
    with pytest.raises(TargetError, match=r"fact rome: `keep` works at .* without --fact-token last"):
        find_targets(base, [fact], LAYER, last)


@pytest.mark.quality
def test_facts_stop_early_each_at_its_own_step() -> None:
    options = EAGER.model_copy(update={"stop_loss": 0.6})
    found = assert_like_memit(taught_base(), EDITS[:2], 0, options)
    at_least("steps between the first and the last to stop", max(found.steps) - min(found.steps), 1)
    at_most("steps of the last", max(found.steps), options.steps - 1)
    assert max(found.loss_after) < 0.6


@pytest.mark.quality
def test_the_model_says_every_token_of_the_target() -> None:
    base = taught_base()
    found = find_targets(base, EDITS, 0, EAGER)
    for number, fact in enumerate(EDITS):
        prompt = encode_fact(base.reader, fact, EAGER.style)
        assert prompt.target is not None
        with torch.no_grad():
            said = logits_with(base, prompt, found.value[number] - found.start[number], 0).argmax(-1)
        assert base.tokenizer.decode(said[prompt.target - 1 : -1]) == f" {fact.target_new}"
    at_least("smallest loss before", min(found.loss_before), 0.1)
    at_most("largest loss after", max(found.loss_after), 0.1)


@pytest.mark.quality
def test_the_kl_term_holds_the_essence(base: Base) -> None:
    moved = []
    for weight in (0.0, 5.0):
        found = find_targets(base, FACTS[:1], LAYER, QUICK.model_copy(update={"kl_weight": weight}))
        essence = encode_essence(base.reader, FACTS[0])
        with torch.no_grad():
            before = logits_with(base, essence, torch.zeros(base.hidden_size), LAYER)[-1].log_softmax(-1)
            after = logits_with(base, essence, (found.value - found.start)[0], LAYER)[-1].log_softmax(-1)
        moved.append(float((after.exp() * (after - before)).sum()))
    at_most("share of the divergence that the term leaves", moved[1] / moved[0], 0.5)


@pytest.mark.quality
def test_weight_decay_keeps_changes_small(base: Base) -> None:
    sizes = []
    for weight in (0.0, 50.0):
        found = find_targets(base, FACTS, LAYER, QUICK.model_copy(update={"weight_decay": weight}))
        sizes.append((found.value - found.start).norm(dim=1))
    at_most("size with the decay as a share", float((sizes[1] / sizes[0]).max()), 1.0)


def test_changes_are_clamped(base: Base) -> None:
    found = find_targets(base, FACTS, LAYER, QUICK.model_copy(update={"clamp": 0.2}))
    share = (found.value - found.start).norm(dim=1) / found.start.norm(dim=1)
    assert float(share.max()) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_how_many_facts_share_a_pass_changes_nothing(base: Base, size: int) -> None:
    together = find_targets(base, FACTS, LAYER, QUICK)
    apart = find_targets(base, FACTS, LAYER, QUICK.model_copy(update={"facts_per_pass": size}))
    torch.testing.assert_close(apart.value, together.value, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(apart.start, together.start)
    assert apart.steps == together.steps


def test_the_search_is_deterministic(base: Base) -> None:
    options = QUICK.model_copy(update={"contexts": 2, "context_tokens": 4})
    first, second = (find_targets(base, FACTS, LAYER, options) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert first.loss_after == second.loss_after


def test_contexts_come_from_the_seed_alone(base: Base) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    texts = generate_contexts(base, 6, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert generate_contexts(base, 6, 5, seed=3) == texts
    assert generate_contexts(base, 6, 5, seed=4) != texts
    openings = ("The", "Therefore", "Because", "I", "You", "The")
    assert all(text.startswith(opening) for text, opening in zip(texts, openings, strict=True))
    assert all(text.endswith(". ") for text in texts)


def test_contexts_are_asked_for_by_number(base: Base) -> None:
    assert context_prefixes(base, QUICK) == ("",)
    some = context_prefixes(base, QUICK.model_copy(update={"contexts": 2}))
    assert len(some) == 3
    asked = QUICK.model_copy(update={"contexts": 2})
    generated = find_targets(base, FACTS[:1], LAYER, asked)
    given = find_targets(base, FACTS[:1], LAYER, QUICK, prefixes=some)
    torch.testing.assert_close(generated.value, given.value, rtol=0, atol=1e-5)


SAME_SUBJECT = (edit("Ann", "{} eats"), edit("Bob", "{} is in"), edit("Ann", "{} is in"))


def test_facts_about_one_subject_go_together() -> None:
    assert facts_together(SAME_SUBJECT, "subject-last") == [[0, 2], [1]]
    assert facts_together(SAME_SUBJECT, "last") == [[0], [1], [2]]


@pytest.mark.quality
def test_facts_about_one_subject_share_a_change_that_says_all_of_them() -> None:
    base = taught_base()
    found = find_targets(base, SAME_SUBJECT, 0, EAGER)
    change = found.value - found.start
    torch.testing.assert_close(change[0], change[2])
    assert not torch.allclose(change[0], change[1])
    assert found.steps[0] == found.steps[2]
    for number, fact in enumerate(SAME_SUBJECT):
        prompt = encode_fact(base.reader, fact, EAGER.style)
        with torch.no_grad():
            loss = nll(base, prompt, change[number], 0).item()
        assert found.loss_after[number] == pytest.approx(loss, abs=1e-3)
    at_most("largest loss after", max(found.loss_after), 0.1)


@pytest.mark.quality
def test_a_group_is_not_done_before_each_of_its_facts_is() -> None:
    alone = {"stop_loss": 0.2, "kl_weight": 0.0, "weight_decay": 0.0}  # the loss is the NLL alone
    options = EAGER.model_copy(update=alone)
    group = (SAME_SUBJECT[0], SAME_SUBJECT[2])
    found = find_targets(taught_base(), group, 0, options)
    at_most("steps until both are done", found.steps[0], options.steps - 1)
    assert max(found.loss_after) < 0.2
    earlier = options.model_copy(update={"steps": found.steps[0] - 1})
    assert max(find_targets(taught_base(), group, 0, earlier).loss_after) >= 0.2


def test_a_group_is_searched_alone_as_in_company() -> None:
    options = EAGER.model_copy(update={"steps": 6})
    together = find_targets(taught_base(), SAME_SUBJECT, 0, options)
    alone = find_targets(taught_base(), (SAME_SUBJECT[0], SAME_SUBJECT[2]), 0, options)
    torch.testing.assert_close(alone.value, together.value[[0, 2]], atol=2e-3, rtol=2e-3)
    never_divided = find_targets(
        taught_base(), SAME_SUBJECT, 0, options.model_copy(update={"facts_per_pass": 1})
    )
    torch.testing.assert_close(never_divided.value, together.value, atol=2e-3, rtol=2e-3)


def test_losses_are_those_of_the_model_as_it_is(base: Base) -> None:
    with attach_delta(base.layer(LAYER), tiny_delta(base.layer(LAYER))):
        losses = target_losses(base, FACTS, QUICK.model_copy(update={"facts_per_pass": 3}))
        found = find_targets(base, FACTS, LAYER, QUICK.model_copy(update={"steps": 1}))
        with torch.no_grad():
            prompts = [encode_fact(base.reader, fact, QUICK.style) for fact in FACTS]
            expected = [nll(base, prompt, torch.zeros(base.hidden_size), LAYER).item() for prompt in prompts]
    assert losses == pytest.approx(expected, abs=1e-4)
    assert found.loss_before == pytest.approx(expected, abs=1e-4)
    assert target_losses(base, FACTS, QUICK) != pytest.approx(expected, abs=1e-2)


@pytest.mark.quality
def test_gradients_are_wanted_even_where_they_are_switched_off() -> None:
    with torch.no_grad():
        found = find_targets(taught_base(), FACTS[:1], LAYER, QUICK.model_copy(update={"steps": 20}))
    at_most("share of the loss that is left", found.loss_after[0] / found.loss_before[0], 1.0)


def test_progress_is_counted_in_facts_and_steps(base: Base) -> None:
    heard: list[tuple[str, int, int]] = []
    options = QUICK.model_copy(update={"facts_per_pass": 3})
    find_targets(base, FACTS, LAYER, options, lambda *report: heard.append(report))
    assert {stage for stage, _, _ in heard} == {"targets"}
    done = [count for _, count, _ in heard]
    assert done == sorted(done)
    assert heard[-1][1:] == (len(FACTS) * QUICK.steps, len(FACTS) * QUICK.steps)


def test_an_interruption_leaves_the_model_as_it_was() -> None:
    base = tiny_base("qwen3_moe")
    next(iter(base.model.parameters())).requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in base.model.parameters()]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_targets(base, FACTS, LAYER, QUICK, interrupt)
    assert [parameter.requires_grad for parameter in base.model.parameters()] == wanted
    assert all("forward" not in block.__dict__ for block in base.decoder_layers)
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="clmp"):
        TargetOptions.model_validate({"clmp": 1.0})


@pytest.mark.quality
def test_a_model_in_half_precision() -> None:
    base = taught_base()
    half = wrap(copy.deepcopy(base.model).bfloat16(), base.tokenizer)
    full, found = (
        find_targets(one, EDITS, 0, EAGER.model_copy(update={"steps": 30})) for one in (base, half)
    )
    assert found.value.dtype == found.start.dtype == torch.float32
    torch.testing.assert_close(found.loss_before, full.loss_before, atol=0.1, rtol=0.1)
    at_most("largest loss after", max(found.loss_after), 0.5)
