"""When text is long enough, and that it reaches experts which it would hardly reach by itself."""

from __future__ import annotations

import pytest
import torch

from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.elicit.growing import ENERGY, SEEKING, GrowingText, shortfall
from moe_patch.elicit.writing import write_texts
from moe_patch.solve.moments import Moments
from tests.tiny import tiny_base


def test_shortfall_is_what_the_directions_of_a_sample_miss() -> None:
    def moments(*diagonals: list[float], tokens: tuple[int, ...]) -> Moments:
        second = torch.stack(
            [n * torch.diag(torch.tensor(d)) for d, n in zip(diagonals, tokens, strict=True)]
        )
        return Moments(0, second, torch.tensor(tokens))

    seen = moments([1.0, 0.0], [0.0, 1.0], tokens=(10, 10))
    assert shortfall(seen, seen) == 0.0
    fresh = moments([0.9, 0.1], [0.5, 0.5], tokens=(30, 10))
    assert shortfall(seen, fresh) == pytest.approx(ENERGY - (0.75 * 0.9 + 0.25 * 0.5))
    elsewhere = moments([1.0, 0.0], [0.0, 1.0], tokens=(0, 10))
    assert shortfall(elsewhere, moments([1.0, 0.0], [0.0, 1.0], tokens=(10, 0))) == ENERGY


def text_of(layers: list[int], most: int) -> GrowingText:
    """Sixty tokens of a tiny base, which reach some of its experts a few times only."""
    base = tiny_base("mixtral")
    text = GrowingText(base, layers, most)
    text.add(dict.fromkeys(write_texts(base, 5, 0, length=12), True))
    return text


def test_text_is_sought_for_experts_that_few_tokens_reach() -> None:
    text = text_of([0, 2], 2000)
    before = {layer: moments.tokens for layer, moments in text.moments.items()}
    rare = sum(int((tokens < 40).sum()) for tokens in before.values())
    assert rare > 0
    text.seek(40)
    assert (text.growth.sought, text.growth.unreached) == (rare, 0)
    assert all(int(moments.tokens.min()) >= 40 for moments in text.moments.values())
    written = Corpus("all", tuple(text.texts))
    fresh = collect_moments(tiny_base("mixtral"), written, [0, 2], use_cache=False)
    for layer in (0, 2):
        assert torch.equal(text.moments[layer].tokens, fresh[layer].tokens)
        torch.testing.assert_close(text.moments[layer].second, fresh[layer].second, rtol=1e-4, atol=1e-3)


def test_the_prose_is_what_was_written_before() -> None:
    text = text_of([0], 2000)
    prose = list(text.texts)
    text.seek(40)
    assert [one for one, is_prose in text.texts.items() if is_prose] == prose
    assert len(text.texts) > len(prose)


def test_an_expert_that_no_token_reaches_stays_unreached() -> None:
    base = tiny_base("deepseek_v3")
    with torch.no_grad():
        base.model.model.layers[1].mlp.gate.e_score_correction_bias[2] = -1e9
    text = GrowingText(base, [1], 2000)
    text.add(dict.fromkeys(write_texts(base, 5, 0, length=12), True))
    text.seek(20)
    assert int(text.moments[1].tokens[2]) == 0
    assert text.growth.unreached == 1


def test_seeking_ends_a_quarter_above_the_cap() -> None:
    text = text_of([0, 2], 80)
    text.seek(10_000)
    assert text.growth.tokens <= (1 + SEEKING) * 80
    assert text.growth.unreached == 8


def test_nothing_is_sought_where_all_experts_are_reached() -> None:
    text = text_of([0], 2000)
    count = len(text.texts)
    text.seek(1)
    assert text.growth.sought == 0
    assert len(text.texts) == count
