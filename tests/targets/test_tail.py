from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moe_patch.base.capture import attach_delta
from moe_patch.base.model import Base
from moe_patch.data.prompts import Prompt
from moe_patch.errors import TargetError
from moe_patch.targets.tail import Reads, Tail, WholePass, open_pass
from tests.tiny import CONFIGS, VOCABULARY, tiny_base, tiny_delta

NEEDS = {
    name: {"index_topk": 64} for name in ("axk2", "deepseek_v32", "glm_moe_dsa")
}  # as many as there are tokens


def some_prompts() -> tuple[list[Prompt], Reads]:
    """Prompts of many lengths, one of them edited at its first token, and reads wherever a change matters."""
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(tuple(torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()), edited)
        for length, edited in ((12, 5), (9, 0), (20, 9), (7, 6))
    ]
    places = [(row, i) for row, p in enumerate(prompts) for i in range(p.edited, len(p.ids))]
    row, index = torch.tensor(places).T
    return prompts, Reads(row, index)


def brute_force(base: Base, prompts: list[Prompt], reads: Reads, layer: int, change: Tensor) -> Tensor:
    """The same logits from one unpadded, uncached pass for each prompt."""
    whole = []
    for prompt, added in zip(prompts, change, strict=True):

        def add(
            _module: nn.Module, _inputs: Any, output: Any, at: Prompt = prompt, by: Tensor = added
        ) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states = states + by * (torch.arange(states.shape[1]) == at.edited)[None, :, None]
            return (states, *output[1:]) if isinstance(output, tuple) else states

        hook = base.decoder_layers[layer].register_forward_hook(add)
        whole.append(base.model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0])
        hook.remove()
    return torch.stack([whole[row][index] for row, index in zip(reads.row, reads.index, strict=True)])


def some_change(base: Base, prompts: list[Prompt]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(prompts), base.hidden_size, generator=generator)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_logits_are_those_of_whole_passes(model_type: str) -> None:
    base = tiny_base(model_type, **NEEDS.get(model_type, {}))
    prompts, reads = some_prompts()
    layer, change = min(base.layers), some_change(base, prompts)
    with torch.no_grad():
        opened = open_pass(base, prompts, reads, layer)
        expected = brute_force(base, prompts, reads, layer, change)
        torch.testing.assert_close(opened.logits(change), expected, atol=3e-5, rtol=1e-5)
        without = brute_force(base, prompts, reads, layer, torch.zeros_like(change))
        torch.testing.assert_close(opened.unchanged(), without, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "mixtral", "gpt_oss", "olmoe", "deepseek_v3", "minimax_m2"]
)
def test_common_models_take_the_short_way(model_type: str) -> None:
    base = tiny_base(model_type)
    prompts, reads = some_prompts()
    assert isinstance(open_pass(base, prompts, reads, min(base.layers)), Tail)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("kind", [Tail, WholePass])
def test_gradients_are_those_of_whole_passes(kind: type[Tail] | type[WholePass], layer: int) -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    weight = torch.randn(len(reads.row), VOCABULARY, generator=torch.Generator().manual_seed(2))
    change = some_change(base, prompts).requires_grad_()
    (found,) = torch.autograd.grad((kind(base, prompts, reads, layer).logits(change) * weight).sum(), change)
    expected = torch.autograd.grad((brute_force(base, prompts, reads, layer, change) * weight).sum(), change)
    torch.testing.assert_close(found, expected[0], atol=1e-3, rtol=1e-3)


def test_gradients_are_finite_differences() -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    opened = Tail(base, prompts, reads, 0)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(len(reads.row), VOCABULARY, generator=generator)
    change = some_change(base, prompts).requires_grad_()
    (gradient,) = torch.autograd.grad((opened.logits(change) * weight).sum(), change)
    for row in range(len(prompts)):
        step = torch.zeros_like(gradient)
        step[row] = 1e-3 * gradient[row] / gradient[row].norm()
        with torch.no_grad():
            ahead, behind = (opened.logits(change + sign * step).double() for sign in (1, -1))
        slope = float(((ahead - behind) * weight).sum()) / 2e-3
        assert slope == pytest.approx(float(gradient[row].norm()), rel=0.02)


def test_only_the_tail_is_computed() -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    opened = Tail(base, prompts, reads, 1)
    seen: dict[int, Any] = {}
    hooks = [
        block.mlp.register_forward_hook(lambda _m, inputs, _o, n=number: seen.update({n: inputs[0].shape[1]}))
        for number, block in enumerate(base.decoder_layers)
    ]
    opened.unchanged()
    for hook in hooks:
        hook.remove()
    longest = max(len(prompt.ids) - prompt.edited for prompt in prompts)
    assert seen == {2: longest}


def test_the_head_runs_only_where_it_is_read() -> None:
    base = tiny_base("qwen3_moe")
    prompts, _ = some_prompts()
    heads: list[int] = []
    hook = base.model.lm_head.register_forward_hook(lambda _m, inputs, _o: heads.append(inputs[0].shape[1]))
    Tail(base, prompts, Reads(torch.tensor([0, 3]), torch.tensor([7, 6])), 1).unchanged()
    hook.remove()
    assert heads == [2]


def test_a_model_that_cannot_keep_some_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    forward = base.model.forward

    def older(
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        return forward(input_ids, attention_mask, position_ids, past_key_values, use_cache=use_cache)

    change = some_change(base, prompts)
    with torch.no_grad():
        expected = brute_force(base, prompts, reads, 0, change)
        monkeypatch.setattr(base.model, "forward", older)
        for kind in (Tail, WholePass):
            found = kind(base, prompts, reads, 0).logits(change)
            torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)


def test_live_deltas_are_part_of_the_model() -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    change = some_change(base, prompts)
    with torch.no_grad():
        before = Tail(base, prompts, reads, 0).logits(change)
        with (
            attach_delta(base.layer(0), tiny_delta(base.layer(0))),
            attach_delta(base.layer(2), tiny_delta(base.layer(2))),
        ):
            found = Tail(base, prompts, reads, 0).logits(change)
            expected = brute_force(base, prompts, reads, 0, change)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)


def test_a_model_that_cannot_be_continued_is_run_whole_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = tiny_base("jamba")
    prompts, reads = some_prompts()
    with caplog.at_level(logging.WARNING, logger="moe_patch.targets.tail"):
        opened = [open_pass(base, prompts, reads, 0) for _ in range(2)]
    assert [type(one) for one in opened] == [WholePass, WholePass]
    assert len(caplog.records) == 1
    assert "tiny-jamba: the target search uses whole passes" in caplog.text
    assert "off by" in caplog.text


def test_later_layers_that_use_keys_of_earlier_ones(caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base("gemma4_text", num_kv_shared_layers=1, hidden_size_per_layer_input=8)
    prompts, reads = some_prompts()
    change = some_change(base, prompts)
    with torch.no_grad():
        found = open_pass(base, prompts, reads, 0).logits(change)
        expected = brute_force(base, prompts, reads, 0, change)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)
    assert "use keys of earlier ones" in caplog.text


def test_an_output_that_is_not_one_residual_stream_is_refused() -> None:
    base = tiny_base("qwen3_moe")
    base.decoder_layers[2].register_forward_hook(lambda _module, _inputs, output: output[:, :, None])
    with pytest.raises(TargetError, match="expected one residual stream"):
        Tail(base, *some_prompts(), 2)


def test_an_exception_leaves_the_model_as_it_was() -> None:
    base = tiny_base("qwen3_moe")
    prompts, reads = some_prompts()
    opened = [kind(base, prompts, reads, 1) for kind in (Tail, WholePass)]
    accelerated = base.decoder_layers[0].forward
    base.decoder_layers[0].forward = accelerated  # on the instance, as accelerate's hooks are

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = base.decoder_layers[2].register_forward_hook(interrupt)
    for one in opened:
        with pytest.raises(KeyboardInterrupt):
            one.unchanged()
    hook.remove()
    assert base.decoder_layers[0].__dict__["forward"] is accelerated
    assert all("forward" not in block.__dict__ for block in base.decoder_layers[1:])
    assert not any(block._forward_hooks for block in base.decoder_layers)
