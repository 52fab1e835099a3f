"""How much a base writes, what is remembered of it, and that its moments are those of its text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.statistics import collect_moments
from moe_patch.elicit import growing
from moe_patch.elicit import own_text as module
from moe_patch.elicit.own_text import own_prose, own_text
from moe_patch.errors import StatisticsError
from tests.tiny import tiny_base, tiny_patch


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "FIRST_PORTION", 4)
    monkeypatch.setattr(module, "TEXT_TOKENS", 12)


def written(base: Base, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the portions that the base is asked to write from now on."""
    asked: list[int] = []
    write = module.write_texts

    def recorded(base: Base, count: int, seed: int, **options: object) -> list[str]:
        asked.append(count)
        return write(base, count, seed, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_texts", recorded)
    return asked


def test_portions_double_until_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    monkeypatch.setattr(growing, "SETTLED", -1.0)
    asked = written(base, monkeypatch)
    found = own_text(base, [0, 2], most=150, least=1)
    assert asked == [4, 4, 8]  # of 12 tokens each: 48, 96, and 150 in the third
    assert 96 < found.growth.tokens <= 150
    assert not found.growth.settled
    assert found.prose == found.corpus.texts


def test_it_stops_when_new_text_lies_where_old_text_does(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    sequence = iter([0.2, 0.005])
    monkeypatch.setattr(growing, "shortfall", lambda *_: next(sequence))
    asked = written(base, monkeypatch)
    growth = own_text(base, [1]).growth
    assert asked == [4, 4, 8]
    assert growth.settled
    assert growth.left_out == 0.005


def test_the_moments_are_those_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    first = own_text(base, [0, 2], most=150, least=1)
    asked = written(base, monkeypatch)
    again = own_text(base, [0, 2], most=150, least=1)
    assert asked == []
    assert again.corpus.texts == first.corpus.texts
    assert again.growth == first.growth
    fresh = collect_moments(base, first.corpus, [0, 2], use_cache=False)
    for layer in (0, 2):
        assert torch.equal(first.moments[layer].second, again.moments[layer].second)
        assert torch.equal(first.moments[layer].tokens, fresh[layer].tokens)
        torch.testing.assert_close(first.moments[layer].second, fresh[layer].second, rtol=1e-5, atol=1e-5)


def test_another_layer_takes_the_same_portions_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    monkeypatch.setattr(growing, "SETTLED", -1.0)
    first = own_text(base, [0], most=150, least=1)
    asked = written(base, monkeypatch)
    assert own_text(base, [2], most=150, least=1).corpus.texts == first.corpus.texts
    assert asked == []
    other = tiny_base("mixtral", seed=1)
    assert own_text(other, [0], most=150, least=1).corpus.texts != first.corpus.texts
    assert asked


def test_a_patched_base_does_not_write() -> None:
    base = tiny_base("mixtral")
    with apply(base, tiny_patch(base)), pytest.raises(StatisticsError, match="has a patch on"):
        own_text(base, [0])
    with apply(base, tiny_patch(base)), pytest.raises(StatisticsError, match="has a patch on"):
        own_prose(base, 4)


def test_a_base_that_writes_only_loops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_texts", lambda *_, **__: [])
    with pytest.raises(StatisticsError, match=r"nothing but loops by itself.*--corpus"):
        own_text(tiny_base("mixtral"), [0])
    with pytest.raises(StatisticsError, match=r"nothing but loops by itself.*--corpus"):
        own_prose(tiny_base("mixtral"), 4)


def test_progress_ends_at_what_was_written() -> None:
    calls: list[tuple[int, int]] = []
    own_text(tiny_base("mixtral"), [0], most=150, progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] <= calls[-1][1] == 150


def test_prose_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    texts = own_prose(base, 5)
    asked = written(base, monkeypatch)
    assert own_prose(base, 5) == texts
    assert asked == []
    assert len(own_prose(base, 3)) == 3
