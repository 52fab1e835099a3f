"""What touches a model, with the model on a device that is not the CPU, whole or every other layer.

Run by test_device.py in a process of its own. What comes out has to be what the CPU gives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor

import moe_patch
from moe_patch.base.model import Base
from moe_patch.evaluation import evaluate
from moe_patch.methods import get_method
from moe_patch.patch import Patch
from tests.device.simulated import DEVICE, move
from tests.methods import builds
from tests.tiny import tiny_base, tiny_batch, tiny_patch

TYPES = ("qwen3_moe", "gpt_oss")  # one expert a tensor, and transposed with biases

BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "MoEEdit in batches, with contexts": (
        "moeedit",
        {"batch_size": 2, "targets": {"steps": 3, "contexts": 2, "context_tokens": 2}},
    ),
    "MoEEdit by descent": ("moeedit", {"solver": "bcd"}),
    "MoTE": ("mote", {"whitening": "both", "sweeps": 1}),
    "woodbury-spread": ("woodbury-spread", {}),
    "bcd-spread": ("bcd-spread", {}),
}


def wholly(base: Base) -> Base:
    """The base on the device."""
    move(base.model)
    return base


def by_turns(base: Base) -> Base:
    """The base as accelerate deals its layers out to several devices: every other one here."""
    for name, module in base.model.named_modules():
        layer = name.removeprefix("model.layers.")
        if layer.isdecimal() and int(layer) % 2 == 0:
            move(module)
            add_hook_to_module(module, AlignDevicesHook(execution_device=DEVICE))
        elif layer.isdecimal() or name in ("model.norm", "lm_head", "model.rotary_emb", "model.embed_tokens"):
            add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    return base


@pytest.fixture(params=[wholly, by_turns])
def moved(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Base], Base]:
    """How the base gets to the device; it shares no cache with the one that stays."""

    def put(base: Base) -> Base:
        monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path / "there"))
        return request.param(base)

    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path / "here"))
    return put


def logits(base: Base) -> Tensor:
    ids, mask = (given.to(base.device) for given in tiny_batch())
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits.cpu()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)  # attention has another kernel there


def same(found: Patch, expected: Patch) -> None:
    assert found.tensors().keys() == expected.tensors().keys()
    for name, tensor in expected.tensors().items():
        assert found.tensors()[name].device.type == "cpu"
        close(found.tensors()[name], tensor)


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    there = torch.ones(2, 3).to(DEVICE)
    assert there.device == DEVICE
    for mixed in (
        lambda: there + torch.ones(2, 3),
        lambda: torch.ones(4, 2) @ there,
        lambda: torch.cat([there, torch.ones(2, 3)]),
        lambda: torch.ones(2)[there[0].int()],
        lambda: there.index_add(0, torch.tensor([0]), there[:1]),
        there.numpy,
    ):
        with pytest.raises(RuntimeError):
            mixed()
    assert (there * torch.tensor(2.0))[torch.tensor([1])].cpu().tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "how", [{"mode": "hook"}, {"mode": "merge"}, {"mode": "merge", "rounding": "compensated"}], ids=str
)
def test_patches_are_applied(kind: str, how: dict[str, Any], moved: Callable[[Base], Base]) -> None:
    dtype = torch.bfloat16 if "rounding" in how else torch.float32
    here, there = (tiny_base(kind) for _ in range(2))
    for base in (here, there):
        base.model.to(dtype)
    moved(there)
    patch, before = tiny_patch(here), logits(there)
    with moe_patch.apply(here, patch, **how):
        expected = logits(here)
    with moe_patch.apply(there, patch, **how):
        if dtype is torch.float32:
            close(logits(there), expected)
        assert not torch.equal(logits(there), before)
    assert torch.equal(logits(there), before)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("method", "options"), BUILDS.values(), ids=BUILDS)
def test_deltas_are_built(
    kind: str, method: str, options: dict[str, Any], moved: Callable[[Base], Base], tmp_path: Path
) -> None:
    text = builds.corpus(tmp_path)
    expected = builds.build(method, tiny_base(kind), corpus=text, **options)
    same(builds.build(method, moved(tiny_base(kind)), corpus=text, **options), expected)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"router": "published", "merge": "weighted", "top_k": 2, "balance_form": "published"},
        {"router": "published", "router_states": "final", "merge": "soft", "division_sizes": "soft"},
    ],
    ids=str,
)
def test_a_bypass_is_trained_and_generates(
    moved: Callable[[Base], Base], form: dict[str, Any], tmp_path: Path
) -> None:
    memoe, text = get_method("memoe"), builds.corpus(tmp_path)
    options = memoe.options(layer=1, steps=3, corpus=text, **form)
    here = tiny_base("qwen3_moe")
    patch = memoe.build(here, builds.facts(), options)
    there = moved(tiny_base("qwen3_moe"))
    same(memoe.build(there, builds.facts(), options), patch)
    said = []
    for base in (here, there):
        ids, mask = (given.to(base.device) for given in tiny_batch())
        with moe_patch.apply(base, patch):
            said.append(base.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4).tolist())
    assert said[0] == said[1]


def test_patches_are_evaluated(moved: Callable[[Base], Base]) -> None:
    here = tiny_base("qwen3_moe")
    patch = builds.build("moeedit", here)
    found, expected = (
        evaluate(moved(tiny_base("qwen3_moe")), patch).to_json(),
        evaluate(here, patch).to_json(),
    )
    assert found["efficacy"] == expected["efficacy"]
    assert found.keys() == expected.keys()
