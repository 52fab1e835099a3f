"""Data sets of the Hub, against a stand-in for the package that fetches them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from moe_patch.data.hub_texts import HubText
from moe_patch.errors import ConfigError, StatisticsError

ROWS: list[dict[str, Any]] = [
    {"id": 1, "title": "A", "text": " one "},
    {"id": 2, "title": "B", "text": ""},
    {"id": 3, "title": "C", "text": None},
    {"id": 4, "title": "D", "text": "e\u0301"},
]


class DatasetsError(Exception):
    """The package's own error."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the package is asked for; it gives the rows above, or fails for names with "broken"."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[Any]:
        calls.append((name, config, split, streaming))
        if "broken" in name:
            raise DatasetsError("no such\ndata set")
        return iter(ROWS)

    package, errors = ModuleType("datasets"), ModuleType("datasets.exceptions")
    package.load_dataset, errors.DatasetsError = load_dataset, DatasetsError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)
    return calls


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("hf:owner/name", HubText("owner/name")),
        ("hf:name", HubText("name")),
        ("hf:owner/name:en", HubText("owner/name", "en")),
        ("hf:owner/name::test", HubText("owner/name", None, "test")),
        ("hf:owner/name:::body", HubText("owner/name", None, "train", "body")),
        ("hf:o-1/n_2.3:20231101.en:train:text", HubText("o-1/n_2.3", "20231101.en", "train", "text")),
    ],
)
def test_what_is_left_out_has_a_default(place: str, expected: HubText) -> None:
    assert HubText.parse(place) == expected


def test_texts_are_streamed_in_order_without_empty_rows(asked: list[tuple[Any, ...]]) -> None:
    assert list(HubText.parse("hf:owner/name:en:test").texts()) == ["one", "\u00e9"]
    assert asked == [("owner/name", "en", "test", True)]
    assert list(HubText.parse("hf:owner/name:::title").texts()) == ["A", "B", "C", "D"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(StatisticsError, match=r"hf:a/b has no column 'body' .* are title, text"):
        list(HubText.parse("hf:a/b:::body").texts())


def test_what_cannot_be_fetched_is_one_line(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(StatisticsError, match="cannot read the data set hf:a/broken: no such data set"):
        list(HubText.parse("hf:a/broken").texts())


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"need the package datasets: pip install 'moe-patch\[datasets\]'"):
        list(HubText.parse("hf:a/b").texts())
