"""The paper's forms as options: losses against their formulas, merged and published builds, BLOOM's too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.blocks import find_block
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.bypass import Bypass, read_bypass, read_routed
from moe_patch.data.prompts import Prompt
from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.methods.memoe.options import MEMoEOptions
from moe_patch.methods.memoe.training import Texts, Training
from moe_patch.methods.memoe.trunk import Trunk
from moe_patch.methods.overrides import merged_options
from moe_patch.methods.published import published_options
from moe_patch.patch import load, save
from tests.margins import at_most
from tests.methods import builds
from tests.tiny import tiny_base, tiny_model, tiny_tokenizer

TEXTS = [Prompt(tuple(range(5 + i, 13 + i)), 0, 5) for i in range(4)]
PRESERVED = [Prompt(tuple(range(40 + i, 47 + i)), 0) for i in range(3)]
EXPERT, RANKS = torch.tensor([0, 1, 2, 1]), torch.tensor([0.1, 0.4, 0.7, 0.95])
PUBLISHED: dict[str, Any] = {
    "router": "published",
    "router_states": "final",
    "merge": "weighted",
    "scope_gate": False,
    "division_sizes": "soft",
    "balance_form": "published",
    "replay": 0,
}


def options(**changes: Any) -> MEMoEOptions:
    sizes = {"layer": 1, "experts": 3, "expert_width": 8, "adapter_width": 6, "steps": 2}
    return MEMoEOptions(**sizes | changes)


def training(base: Base, chosen: MEMoEOptions) -> tuple[Training, Bypass, Trunk]:
    """A training whose bypass is random throughout, with three preserved prompts."""
    torch.manual_seed(0)
    bypass = Bypass(chosen.config(1, base.hidden_size, 1.0))
    with torch.no_grad():
        for weight in bypass.parameters():
            weight.normal_(std=0.3)
    everything = [*TEXTS, *PRESERVED]
    trunk = Trunk(base, find_block(base, 1), everything, chosen.router_states)
    none = [torch.zeros(0, dtype=torch.int64)] * 4
    texts = Texts(everything, torch.arange(4), none, torch.arange(4, 7), none, none)
    return Training(bypass, trunk, texts, chosen), bypass, trunk


def edited(base: Base, bypass: Bypass, text: Prompt, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (answer tokens, V) with sum_i g_i E_i(x) beside the block, and without."""

    def add(_module: Any, inputs: Any, output: Any) -> Any:
        x = inputs[0]
        added = sum(gate * bypass.expert(x, i) for i, gate in enumerate(gates))
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    ids, block = torch.tensor([text.ids]), find_block(base, 1).module
    assert text.target is not None
    places = slice(text.target - 1, -1)
    without = base.model(input_ids=ids).logits[0, places].log_softmax(-1)
    hook = block.register_forward_hook(add)
    found = base.model(input_ids=ids).logits[0, places].log_softmax(-1)
    hook.remove()
    return found, without


def answer_nll(log: Tensor, text: Prompt) -> Tensor:
    return -log.gather(1, torch.tensor(text.ids[text.target :])[:, None]).mean()


def gates_of(base: Base, bypass: Bypass, trunk: Trunk, number: int) -> Tensor:
    """The published gates of one prompt: the largest probability as it is, and zero for the others."""
    prompt = trunk.prompt[number : number + 1]
    likely = bypass.router(trunk.states[number : number + 1], prompt)[0].softmax(-1)
    return torch.where(likely == likely.max(), likely, 0.0)


def test_the_preset_is_the_paper() -> None:
    values, _ = published_options(tiny_base("qwen3_moe"), get_method("memoe"))
    chosen = MEMoEOptions(**values)
    assert {name: getattr(chosen, name) for name in PUBLISHED} == PUBLISHED
    assert (chosen.learning_rate, chosen.scale, chosen.experts, chosen.top_k) == (2e-4, 1.0, 5, 1)
    losses = (chosen.tau, chosen.gamma_1, chosen.gamma_2, chosen.gamma_3, chosen.first_share)
    assert losses == (0.6, 1.0, 0.5, 1.5, 0.3)
    assert (chosen.weight_decay, chosen.warmup) == (0.01, 0.1)
    assert not chosen.needs_text
    assert chosen.layer is None  # and so chosen by looking at the model, like any that nobody gives


def test_published_losses_are_the_papers_formulas() -> None:
    base, chosen = tiny_base("qwen3_moe"), options(**PUBLISHED)
    trained, bypass, trunk = training(base, chosen)
    wanted = []
    for number, text in enumerate(TEXTS):
        found, without = edited(base, bypass, text, gates_of(base, bypass, trunk, number))
        g = RANKS[number]
        apart = (found.exp() * (found - without)).sum(-1).mean()
        importance, coefficient = (1 + torch.tanh(g - 0.6)) / 2, 1 / (1 + torch.exp(0.5 * g))
        wanted.append(importance * answer_nll(found, text) - coefficient * apart)
    found = trained._edit_loss(torch.arange(4), EXPERT, RANKS)
    torch.testing.assert_close(found, torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)
    assert not chosen.needs_text


def test_the_ablation_replaces_all_three_losses_by_plain_cross_entropy() -> None:
    base, chosen = tiny_base("qwen3_moe"), options(**PUBLISHED, plain=True)
    assert [chosen.adaptive, chosen.balance, chosen.router_loss] == [False] * 3
    trained, bypass, trunk = training(base, chosen)
    wanted = [
        answer_nll(edited(base, bypass, text, gates_of(base, bypass, trunk, number))[0], text)
        for number, text in enumerate(TEXTS)
    ]
    everyone = torch.arange(4)
    loss = trained._edit_loss(everyone, EXPERT, RANKS)
    torch.testing.assert_close(loss, torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)
    assert trained._router_loss(everyone, EXPERT).item() == 0.0
    whole = training(base, options(**PUBLISHED))[0]
    assert whole._router_loss(everyone, EXPERT).item() > 0
    assert whole._edit_loss(everyone, EXPERT, RANKS).item() != pytest.approx(loss.item())
    loss.backward()  # the router learns from the answers alone
    assert all(weight.grad is not None and weight.grad.any() for weight in bypass.router.parameters())


@pytest.mark.parametrize("left", ["adaptive", "balance", "router_loss"])
def test_plain_cross_entropy_and_a_loss_that_is_asked_for_are_refused_together(left: str) -> None:
    with pytest.raises(ConfigError, match=f"set {left} to false"):
        merged_options(MEMoEOptions, {"scope_gate": False}, {"plain": True, left: True}, "here")
    with pytest.raises(ConfigError, match="set scope_gate to false"):
        merged_options(MEMoEOptions, {}, {"plain": True}, "here")
    with pytest.raises(ConfigError, match="plain"):
        merged_options(MEMoEOptions, {"scope_gate": False}, {"plain": "yes"}, "here")
    again = options(scope_gate=False, plain=True)
    assert MEMoEOptions(**again.model_dump()) == again  # as a patch records them


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 2},
        {"top_k": 4, "merge": "weighted"},
        {"attention_width": 4},
        {"merge": "weighted", "top_k": 0},
    ],
)
def test_options_that_do_not_go_together(changes) -> None:
    with pytest.raises(ValueError, match=r"top_k|attention_width"):
        options(**changes)


def test_a_penalty_on_preserved_prompts_is_what_it_was() -> None:
    """Through the facts' experts with a gate of one, at the ends of the preserved prompts."""
    base, chosen = tiny_base("qwen3_moe"), options(adaptive=False)
    trained, bypass, _ = training(base, chosen)
    one, two = (trained._edit_loss(torch.tensor([n]), EXPERT, RANKS) for n in (0, 2))
    for number, loss in ((0, one), (2, two)):
        gates = torch.eye(3)[EXPERT[number]]
        wanted = answer_nll(edited(base, bypass, TEXTS[number], gates)[0], TEXTS[number])
        for text in PRESERVED:
            whole = Prompt((*text.ids, 0), 0, len(text.ids))  # its last token's prediction is read
            found, without = edited(base, bypass, whole, gates)
            apart = (found.exp() * (found - without)).sum()
            wanted = wanted + apart / (1 + torch.exp(0.5 * RANKS[number])) / len(PRESERVED)
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.quality
@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen3_moe", PUBLISHED),
        ("qwen3_moe", {"merge": "weighted", "top_k": 2, "experts": 2}),
        ("qwen3_moe", {"merge": "weighted", "top_k": 3, "layer": 2}),
        ("qwen3_moe", {"merge": "soft", "router": "published", "attention_width": 4}),
        ("bloom", PUBLISHED | {"layer": 2, "top_k": 2, "experts": 4}),
    ],
    ids=str,
)
def test_builds_end_in_patches_that_say_what_was_measured(model_type: str, changes, tmp_path: Path) -> None:
    base = bloom() if model_type == "bloom" else tiny_base(model_type)
    chosen = options(**{"steps": 25, "learning_rate": 1e-2, "variants": 2} | changes)
    before = builds.snapshot(base)
    patch = get_method("memoe").build(base, builds.facts(3), with_text(chosen, tmp_path))
    assert builds.unchanged(base, before)
    at_most("share of the loss that is left", worst(patch.results), 0.8)
    save(patch, tmp_path / "patch.safetensors")
    loaded = load(tmp_path / "patch.safetensors")
    assert loaded.hash == patch.hash
    bypass = read_bypass(loaded)
    assert bypass.config.merge == chosen.merge
    assert bypass.config.top_k == chosen.top_k
    assert len(read_routed(loaded).expert) == 3
    if chosen.router == "published":
        assert bypass.router.alpha.item() != 1.0
    if not chosen.scope_gate:  # what was trained is what runs
        for result in patch.results:
            assert result["loss_edited"] == pytest.approx(result["loss_expert"], rel=1e-3)
    with apply(base, loaded):
        pass


def bloom() -> Base:
    return wrap(tiny_model("bloom"), tiny_tokenizer(), "bloom", allow_dense=True)


def worst(results: Any) -> float:
    return max(result["loss_expert"] / result["loss_before"] for result in results)


def with_text(chosen: MEMoEOptions, folder: Path) -> MEMoEOptions:
    if not chosen.needs_text:
        return chosen
    return MEMoEOptions(**chosen.model_dump() | {"corpus": builds.corpus(folder)})
