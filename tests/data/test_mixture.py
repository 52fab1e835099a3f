"""Text from several sources: shares of every beginning, ends of sources, and what is read at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.data.corpus import Corpus
from moe_patch.data.corpus_source import CorpusSource
from moe_patch.data.mixture import mix, read_corpus
from moe_patch.data.reader import Reader
from moe_patch.errors import StatisticsError
from tests.tiny import tiny_tokenizer

READER = Reader(tiny_tokenizer())  # one token per byte


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), st.integers(1, 9)), min_size=2, max_size=4),
    st.integers(1, 300),
)
def test_every_beginning_has_the_shares_of_the_weights(kinds: list[tuple[float, int]], most: int) -> None:
    class Endless(CorpusSource):
        def texts(self) -> Iterator[str]:
            number = int(self.place)
            while True:
                yield str(number) * kinds[number][1]

    sources = [Endless(str(number), weight) for number, (weight, _) in enumerate(kinds)]
    total = sum(weight for weight, _ in kinds)
    tokens = [0] * len(kinds)
    for text in mix(sources, len, most):
        assert sum(tokens) < most
        tokens[int(text[0])] += len(text)
        for number, (weight, _) in enumerate(kinds):  # the longest text bounds how far a share can be off
            longest = max(length / other for other, length in kinds)
            assert abs(tokens[number] / weight - sum(tokens) / total) <= longest + 1e-9
    assert most <= sum(tokens) < most + 9


def test_a_mixture_is_read_as_far_as_it_is_needed(tmp_path: Path) -> None:
    first = lines(tmp_path / "a.txt", ["aaaa"] * 50)
    second = lines(tmp_path / "b.txt", ["bb"] * 50)
    corpus = read_corpus([f"{first}=2", second], READER, 24)
    assert corpus.name == "a.txt, b.txt"
    assert corpus.texts == ("aaaa", "bb") * 4
    assert corpus.hash == Corpus("", corpus.texts).hash


def test_a_single_file_is_taken_whole_and_a_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    texts = ["one", "two", "three"]
    path = lines(tmp_path / "some" / "a.txt", texts)
    assert read_corpus([path], READER, 4).texts == ("one", "two", "three")
    lines(tmp_path / "some" / "b.txt", ["four"])
    assert read_corpus([str(tmp_path / "some")], READER, 4).texts == ("one", "two")
    assert read_corpus([str(tmp_path / "some")], READER, 99).texts == ("one", "two", "three", "four")


def test_a_source_that_ends_is_told_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = lines(tmp_path / "a.txt", ["aa"])
    second = lines(tmp_path / "b.txt", ["bb"] * 3)
    with caplog.at_level(logging.WARNING):
        assert read_corpus([first, second], READER, 99).texts == ("aa", "bb", "bb", "bb")
    (record,) = caplog.records
    assert "a.txt ends after 2 tokens" in record.getMessage()


def test_a_source_without_text_is_named(tmp_path: Path) -> None:
    first = lines(tmp_path / "a.txt", ["aa"])
    second = lines(tmp_path / "b.txt", [""])
    with pytest.raises(StatisticsError, match=r"b\.txt contains no text"):
        read_corpus([first, second], READER, 99)
