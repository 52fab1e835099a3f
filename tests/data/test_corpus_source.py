"""Where preserved text comes from: the text forms of sources, and the files that they stand for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.data.corpus_source import CorpusSource
from moe_patch.errors import ConfigError, StatisticsError
from moe_patch.io.reading import file_sha256


@pytest.mark.parametrize(
    ("text", "place", "weight"),
    [
        ("wiki.txt", "wiki.txt", 1.0),
        ("wiki.txt=3", "wiki.txt", 3.0),
        ("code/=0.5", "code/", 0.5),
        ("year=2024=1", "year=2024", 1.0),
        ("a=b.txt", "a=b.txt", 1.0),
        ("C:\\texts\\wiki.txt=2", "C:\\texts\\wiki.txt", 2.0),
        ("hf:owner/name:config:split:column=1e-3", "hf:owner/name:config:split:column", 1e-3),
    ],
)
def test_a_weight_is_a_number_behind_the_last_equals_sign(text: str, place: str, weight: float) -> None:
    assert CorpusSource.parse(text) == CorpusSource(place, weight)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s.strip()),
    st.floats(1e-3, 1e3).map(lambda weight: float(f"{weight:g}")),
)
def test_the_text_form_is_read_back(place: str, weight: float) -> None:
    source = CorpusSource("x" + place, weight)
    assert CorpusSource.parse(source.text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no file"),
        ("=3", "names no file"),
        (" =3", "names no file"),
        ("wiki.txt=0", "has the weight 0: expected a finite number above 0"),
        ("wiki.txt=-1", "has the weight -1"),
        ("wiki.txt=nan", "has the weight nan"),
        ("wiki.txt=inf", "has the weight inf"),
        ("hf:", "names no data set of the Hub: expected hf:owner/name"),
        ("hf://owner/name", "names no data set"),
        ("hf:a/b:c:d:e:f", "names no data set"),
    ],
)
def test_a_source_of_no_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CorpusSource.parse(text)


def tree(folder: Path) -> None:
    for name in ("b.txt", "a.jsonl", "sub/c.TXT", "sub/.hidden/d.txt", ".e.txt", "notes.md", "sub/f.parquet"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text\n", encoding="utf-8")


def names(source: str, folder: Path) -> list[str]:
    found = CorpusSource.parse(str(folder / source)).files()
    return [path.relative_to(folder).as_posix() for path in found]


def test_folders_and_patterns_stand_for_their_files_in_order(tmp_path: Path) -> None:
    tree(tmp_path)
    assert names(".", tmp_path) == ["a.jsonl", "b.txt", "sub/c.TXT", "sub/f.parquet"]
    assert names("notes.md", tmp_path) == ["notes.md"]
    assert names("*.txt", tmp_path) == ["b.txt"]
    assert names("**/*.[tT][xX][tT]=2", tmp_path) == ["b.txt", "sub/c.TXT"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "[draft] a.txt").write_text("text\n")
    assert names("[draft] a.txt", tmp_path) == ["[draft] a.txt"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.txt", r"cannot read the corpus .*gone\.txt: No such file"),
        ("*.xyz", r"no file matches the corpus .*\*\.xyz"),
        ("empty", r"empty is a folder without text: expected files such as \.jsonl, \.parquet, \.txt"),
        ("pipe", "it is neither a file nor a folder"),
        ("a" * 300, "cannot read the corpus .*: File name too long"),
        ("null\0.txt", "it is neither a file nor a folder"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "picture.png").write_bytes(b"\0")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StatisticsError, match=message):
        names(source, tmp_path)


def test_paths_start_at_another_folder_and_data_sets_stay(tmp_path: Path) -> None:
    source = CorpusSource.parse("text/wiki.txt=3")
    assert source.from_folder(tmp_path) == f"{tmp_path}/text/wiki.txt=3"
    placed = CorpusSource.parse(source.from_folder(tmp_path))
    assert placed.to_folder(tmp_path) == "text/wiki.txt=3"
    assert placed.from_folder(Path("/elsewhere")) == source.from_folder(tmp_path)
    hub = CorpusSource.parse("hf:owner/name=2")
    assert hub.from_folder(tmp_path) == hub.to_folder(tmp_path) == "hf:owner/name=2"


def test_a_place_by_content_is_read_back_with_its_weight(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ships.\n")
    source = CorpusSource(str(tmp_path / "a.txt"), 2.0)
    found = CorpusSource.parse(source.by_content(file_sha256))
    assert found.place.startswith("sha256:")
    assert found.weight == 2.0
    assert CorpusSource.parse("hf:owner/name=3").by_content(file_sha256) == "hf:owner/name=3"
    with pytest.raises(StatisticsError, match=r"nothing\.txt: No such file"):
        CorpusSource(str(tmp_path / "nothing.txt")).by_content(file_sha256)
