"""The share of the facts' keys that projection leaves, against the norms of keys written out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.methods.room import Room, with_room
from moe_patch.patch.rows import Rows
from tests.methods.builds import build, corpus
from tests.tiny import tiny_base

FACTS = [Fact(f"f{i}", "{} lies in", f"Town {i}", "Land") for i in range(3)]


def rows(*values: list[float]) -> Rows:
    """Facts 0 and 1 at expert 0, fact 0 at expert 2; fact 2 reaches none."""
    expert, fact = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0])
    return Rows(torch.tensor(values), expert, fact, 3)


KEYS = rows([3.0, 4.0], [1.0, 0.0], [0.0, 5.0])
PROJECTED = rows([0.0, 4.0], [0.05, 0.0], [0.0, 0.0])


def test_room_is_the_share_of_energy_over_all_experts(caplog: pytest.LogCaptureFixture) -> None:
    room = Room()
    with caplog.at_level(logging.WARNING):
        room.measure(4, KEYS, PROJECTED, FACTS)
    assert room.of_facts() == [0.32, 0.0025, 0.0]  # 16 / 50, 0.0025 / 1, and no key at all
    assert room.of_layer(4) == {"room_min": 0.0, "room_median": 0.0025}
    assert room.of_layer(5) == {}
    (record,) = caplog.records
    assert "layer 4" in record.getMessage()
    assert "f1;" in record.getMessage()  # f2 is named as an unreached fact elsewhere


def test_layers_count_together_and_batches_one_after_the_other() -> None:
    room = Room()
    for layer, projected in ((4, PROJECTED), (5, KEYS)):
        for _ in range(2):
            room.measure(layer, KEYS, projected, FACTS)
    assert room.of_facts() == pytest.approx([0.66, 0.50125, 0.0] * 2, abs=1e-4)
    results = with_room([{"steps": i} for i in range(6)], room)
    assert results[1] == {"steps": 1, "room": room.of_facts()[1]}


def test_without_projection_there_is_nothing_to_tell() -> None:
    assert with_room([{"steps": 3}], Room()) == [{"steps": 3}]


@pytest.mark.parametrize("method", ["moeedit", "mote", "woodbury-spread"])
def test_a_build_records_the_room_of_its_facts(method: str, tmp_path: Path) -> None:
    patch = build(method, tiny_base("qwen3_moe"), corpus=corpus(tmp_path), batch_size=2)
    shares = [result["room"] for result in patch.results]
    assert len(shares) == 4
    assert all(isinstance(share, float) and 0.0 < share < 1.0 for share in shares)
    protection = patch.hyperparameters["protection"]
    assert isinstance(protection, list)
    for layer in protection:
        assert isinstance(layer, dict)
        assert 0.0 < layer["protected"] < 1.0  # type: ignore[operator]
        assert 0.0 < layer["room_min"] <= layer["room_median"] < 1.0  # type: ignore[operator]
