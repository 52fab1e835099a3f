from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.targets.size import stream_size


def streams(seed: int, rows: int = 5, width: int = 256) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 1000), scale=st.floats(1e-4, 1e4), massive=st.integers(0, 8))
def test_the_size_grows_with_the_stream(seed: int, scale: float, massive: int) -> None:
    stream = streams(seed)
    stream[:, :massive] *= 1000
    torch.testing.assert_close(stream_size(scale * stream), scale * stream_size(stream), rtol=1e-4, atol=0)


@given(seed=st.integers(0, 1000))
def test_without_outliers_it_is_the_norm(seed: int) -> None:
    stream = streams(seed).clamp(-2, 2)
    torch.testing.assert_close(stream_size(stream), stream.norm(dim=1))


@given(seed=st.integers(0, 1000), massive=st.floats(50, 1e5))
def test_massive_coordinates_hardly_count(seed: int, massive: float) -> None:
    plain = streams(seed)
    outlying = plain.clone()
    outlying[:, [3, 77]] = massive
    assert bool((outlying.norm(dim=1) > 3 * plain.norm(dim=1)).all())
    assert bool(((stream_size(outlying) / plain.norm(dim=1) - 1).abs() < 0.15).all())


def test_a_stream_of_few_coordinates_has_a_size() -> None:
    few = torch.zeros(2, 32)
    few[0, :3] = 5.0
    assert stream_size(few).tolist() == [few[0].norm().item(), 0.0]
