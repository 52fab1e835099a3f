"""Traces against runs that are made one by one with hooks of their own, and on models whose site is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.tracing import trace
from moe_patch.tracing.asked import ask_all
from moe_patch.tracing.runs import Run, Runner
from moe_patch.tracing.sites import find_sites
from tests.taught import SUBJECTS, answer, edit, taught_base
from tests.tiny import tiny_base

FACTS = [
    Fact("a", "{} lies in", "Atlantis", "Rome"),
    Fact("b", "We know that the island of {} lies in", "Ys", "Rome"),
    Fact("c", "Of {}", "Thule", "Rome"),
]
TYPES = ["qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3", "granitemoe"]


def put(module: Any, column: int, state: Tensor) -> Any:
    """A hook that puts a state at a column of the only row."""

    def change(_module: object, _inputs: object, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states.view(-1, states.shape[-1])[column] = state
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return module.register_forward_hook(change)


def see(module: Any, column: int, seen: list[Tensor]) -> Any:
    def keep(_module: object, _inputs: object, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(states.reshape(-1, states.shape[-1])[column].clone())

    return module.register_forward_hook(keep)


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def chance(base: Base, ids: Sequence[int], first: int) -> float:
    """The probability of the tokens from `first` on."""
    scores = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(scores[at - 1, ids[at]] for at in range(first, len(ids))).exp())


@pytest.mark.parametrize("model_type", TYPES)
def test_many_runs_in_a_pass_equal_runs_one_by_one(model_type: str) -> None:
    base = tiny_base(model_type)
    asked = ask_all(base, FACTS, PromptStyle())
    runner = Runner(base, asked, 3.0, seed=0)
    sites = [site for kind in ("moe", "stream", "attention") for site in find_sites(base, kind).values()]
    _, states = runner.run([Run(i, None) for i in range(len(FACTS))], sites)
    runs = [Run(i, 1, {site: states[site][i]}) for i in range(len(FACTS)) for site in sites]
    found, _ = runner.run(runs)
    for run, got in zip(runs, found.tolist(), strict=True):
        one = asked[run.asked]
        (site,) = run.restored
        seen: list[Tensor] = []
        with hooks(see(site.module, one.prompt.edited, seen)):
            chance(base, one.prompt.ids, one.prompt.target)
        noise = runner._noise(run.asked, 1)

        def add(
            _module: object, _inputs: object, output: Tensor, one: Any = one, noise: Tensor = noise
        ) -> Tensor:
            output = output.clone()
            output[0, list(one.subject)] += noise
            return output

        noisy = base.model.get_input_embeddings().register_forward_hook(add)
        with hooks(noisy, put(site.module, one.prompt.edited, seen[0])):
            expected = chance(base, one.prompt.ids, one.prompt.target)
        assert got == pytest.approx(expected, rel=1e-3), site


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("whole", [False, True])
def test_passes_from_the_middle_equal_whole_ones(
    model_type: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(model_type)
    runner = Runner(base, ask_all(base, FACTS, PromptStyle()), 3.0, seed=0)
    if whole:
        monkeypatch.setattr(runner, "_resumes", False)  # as for a model whose later layers use earlier keys
    sites = [site for kind in ("moe", "stream", "attention") for site in find_sites(base, kind).values()]
    _, states = runner.run([Run(i, None) for i in range(len(FACTS))], sites)
    windows = [{site: states[site]} for site in sites] + [{site: states[site] for site in sites[1:4]}]
    runs = [Run(i, sample) for i in range(len(FACTS)) for sample in range(2)]
    found = runner.restored(runs, windows)
    assert runner._resumes is not whole
    for window, got in zip(windows, found, strict=True):
        rows = [
            replace(run, restored={site: some[run.asked] for site, some in window.items()}) for run in runs
        ]
        torch.testing.assert_close(got, runner.run(rows)[0], rtol=1e-3, atol=0)


def test_noise_is_at_the_subject_and_of_the_size_asked_for() -> None:
    base = tiny_base("qwen3_moe")
    asked = ask_all(base, FACTS, PromptStyle())
    texts = ["".join(base.tokenizer.decode([one.prompt.ids[i] for i in one.subject])) for one in asked]
    assert texts == ["Atlantis", "Ys", "Thule"]
    ids = [one.prompt.ids[i] for one in asked for i in one.subject]
    embedded = base.model.get_input_embeddings().weight[ids]
    runner = Runner(base, asked, 2.0, seed=0)
    assert runner.deviation == pytest.approx(2.0 * float(embedded.detach().std()), rel=1e-5)
    assert float(runner._noise(0, 0).std()) == pytest.approx(runner.deviation, rel=0.2)
    assert not torch.equal(runner._noise(0, 0), runner._noise(0, 1))
    alone = Runner(base, asked[1:], 2.0, seed=0)
    scale = alone.deviation / runner.deviation
    torch.testing.assert_close(alone._noise(0, 0), scale * runner._noise(1, 0))


def test_without_noise_there_is_no_effect() -> None:
    report = trace(tiny_base("qwen3_moe"), FACTS, noise=0.0)
    assert report.total.mean == pytest.approx(0, abs=1e-9)
    for layer in report.layers:
        assert all(abs(effect.mean) < 1e-9 for effect in layer.effects.values())


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_layer_whose_experts_give_nothing_has_no_effect(only: int) -> None:
    base = tiny_base("mixtral")
    for index, layer in base.layers.items():
        if index != only:
            layer.stored.data.zero_()
    effects = {each.layer: abs(each.effects["moe"].mean) for each in trace(base, FACTS, kinds=["moe"]).layers}
    assert max(effects, key=effects.__getitem__) == only
    assert all(effect < 1e-6 * effects[only] for index, effect in effects.items() if index != only)


def test_the_last_layers_stream_at_the_last_token_gives_all_of_the_next_token_back() -> None:
    base = tiny_base("qwen3_moe")
    asked = ask_all(base, FACTS, PromptStyle(fact_token="last"))
    short = [
        replace(one, prompt=replace(one.prompt, ids=one.prompt.ids[: one.prompt.target + 1])) for one in asked
    ]
    runner = Runner(base, short, 3.0, seed=0)
    last = find_sites(base, "stream")[base.num_layers - 1]
    clean, states = runner.run([Run(i, None) for i in range(3)], [last])
    corrupted, _ = runner.run([Run(i, 0) for i in range(3)])
    restored, _ = runner.run([Run(i, 0, {last: states[last][i]}) for i in range(3)])
    assert not torch.allclose(corrupted, clean, rtol=1e-2)
    torch.testing.assert_close(restored, clean, rtol=1e-4, atol=0)


def test_a_taught_fact_is_lost_to_noise_and_its_true_answer_is_known() -> None:
    facts = [edit(name) for name in SUBJECTS[:4]]
    report = trace(taught_base(), facts, noise_samples=2)
    assert [fact.answer.strip() for fact in report.facts] == [
        answer("{} eats", name) for name in SUBJECTS[:4]
    ]
    assert all(fact.known for fact in report.facts)
    assert report.clean.mean > 0.9
    assert report.total.mean == pytest.approx(report.clean.mean - report.corrupted.mean)
    assert report.total.mean > 0.2


def test_dense_layers_are_listed_and_not_ranked() -> None:
    report = trace(tiny_base("deepseek_v3"), FACTS, noise_samples=1)
    assert [layer.experts > 0 for layer in report.layers] == [False, True, True]
    assert set(report.ranking()) == {1, 2}
    assert set(report.layers[0].effects) == {"moe", "stream"}


def test_windows_restore_their_layers_together_and_end_with_the_model() -> None:
    base = tiny_base("mixtral")
    alone = trace(base, FACTS, noise_samples=1, kinds=["moe"])
    wide = trace(base, FACTS, noise_samples=1, kinds=["moe"], window=5)
    means = [layer.effects["moe"].mean for layer in wide.layers]
    assert means == pytest.approx([means[0]] * 3, rel=1e-3)
    assert means[0] != pytest.approx(alone.layers[0].effects["moe"].mean, rel=1e-2)


def test_progress_ends_with_the_number_of_runs() -> None:
    seen: list[tuple[str, int, int]] = []
    trace(tiny_base("mixtral"), FACTS, noise_samples=2, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("tracing", 3 * (1 + 2 * (1 + 6)), 3 * (1 + 2 * (1 + 6)))


@pytest.mark.parametrize(
    ("facts", "options", "problem"),
    [
        ([], {}, "0 facts"),
        (FACTS, {"noise_samples": 0}, "0 samples"),
        (FACTS, {"window": 0}, "windows of 0"),
        (FACTS, {"layers": []}, r"layers \(none\)"),
        (FACTS, {"layers": [1, 3]}, "has layers 0 to 2"),
    ],
)
def test_what_cannot_be_traced_is_refused(facts: list[Fact], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        trace(tiny_base("mixtral"), facts, **options)
