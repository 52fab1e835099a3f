"""Reading preserved text, and cutting it into batches without losing or inventing a token."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.data.corpus import Corpus, padded_batches
from moe_patch.data.reader import Reader
from moe_patch.errors import ConfigError, StatisticsError
from tests.tiny import tiny_tokenizer


def test_text_files_hold_one_text_per_line(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes("\ufeffParis is in France.\r\n\n  Rome is in Italy. \n".encode())
    corpus = Corpus.read(path)
    assert corpus.texts == ("Paris is in France.", "Rome is in Italy.")
    assert corpus.name == "some.txt"


def test_json_lines_hold_one_text_per_object(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"text": "one\\ntwo", "id": 3}\n\n{"text": "three"}\n{"text": " "}\n', encoding="utf-8")
    assert Corpus.read(path).texts == ("one\ntwo", "three")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "fine"}\n{"text": 3}\n',
            r'a\.jsonl:2: expected a JSON object with a string "text"',
        ),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: expected a JSON object"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl:2: "),
        ("a.txt", b"fine\nna\xefve\n", r"a\.txt:2: 'utf-8' codec"),
        ("a.txt", b"\n \n", "contains no text"),
    ],
)
def test_bad_corpora_are_refused_with_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StatisticsError, match=message):
        Corpus.read(tmp_path / name)


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=r"cannot read the corpus .*nowhere\.txt"):
        Corpus.read(tmp_path / "nowhere.txt")


def test_the_hash_is_of_the_texts_and_where_they_end() -> None:
    corpus = Corpus("a", ("ab", "c"))
    assert corpus.hash == Corpus("b", ("ab", "c")).hash
    assert corpus.hash != Corpus("a", ("a", "bc")).hash
    assert corpus.hash != Corpus("a", ("c", "ab")).hash


def test_long_texts_go_on_and_the_budget_is_exact() -> None:
    corpus = Corpus("letters", ("abcdefg", "hij"))
    tokenizer = tiny_tokenizer()
    reader = Reader(tokenizer)

    def words(max_tokens: int | None) -> list[str]:
        return [tokenizer.decode(ids) for ids in corpus.sequences(reader, max_tokens=max_tokens, length=4)]

    assert words(None) == ["abcd", "efg", "hij"]
    assert words(6) == ["abcd", "ef"]
    assert words(7) == ["abcd", "efg"]
    assert words(0) == []


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), max_size=20),
    st.integers(1, 40),
)
def test_batches_hold_every_sequence_once_within_their_size(sequences: list[list[int]], size: int) -> None:
    found = []
    for ids, mask in padded_batches(sequences, size, pad=0):
        assert ids.numel() <= size or len(ids) == 1
        assert not ids[mask == 0].any()
        found += [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    assert sorted(found) == sorted(sequences)


def test_the_text_column_of_parquet_files_is_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "some.parquet"
    parquet.write_table(
        pyarrow.table({"id": [1, 2, 3], "text": ["one ", None, "two"], "title": ["a"] * 3}), path
    )
    assert Corpus.read(path).texts == ("one", "two")
    parquet.write_table(pyarrow.table({"id": [1], "body": ["three"]}), path)
    assert Corpus.read(path).texts == ("three",)
    parquet.write_table(pyarrow.table({"body": ["three"], "title": ["a"]}), path)
    with pytest.raises(StatisticsError, match=r"has no column 'text' of text: .* are body, title"):
        Corpus.read(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(StatisticsError, match=r"cannot read the corpus .*some\.parquet"):
        Corpus.read(path)


def test_without_its_package_a_parquet_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"need the package pyarrow: pip install 'moe-patch\[datasets\]'"):
        Corpus.read(tmp_path / "some.parquet")
