"""CSV and TSV: whatever a spreadsheet writes comes back, and whatever is no table is refused in one line."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moe_patch.data import tables
from moe_patch.data.fact_file import read_facts
from moe_patch.errors import FactError

ON_DISK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).filter(lambda cell: cell.strip() != "")


def written(path: Path, raw: bytes | str) -> Path:
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return path


@ON_DISK
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=4),
    delimiter=st.sampled_from(tables.DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_a_spreadsheet_writes_comes_back(
    rows: list[tuple[str, str, str]], delimiter: str, quoting: int, end: str, mark: bytes, tmp_path: Path
) -> None:
    bare = quoting == csv.QUOTE_MINIMAL and end == "\n"  # then the writer does not quote a carriage return
    assume(not (bare and any("\r" in cell for row in rows for cell in row)))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([("Prompt", "subject", "Answer"), *rows])
    path = written(tmp_path / "facts.csv", mark + text.getvalue().encode())
    found = [record for _, record in tables.read_rows(path)]
    expected = [
        dict(zip(("prompt", "subject", "target_new"), map(str.strip, row), strict=True)) for row in rows
    ]
    assert found == expected


def test_rows_become_facts_with_the_lines_they_start_on(tmp_path: Path) -> None:
    text = (
        "ID;Question;Old answer;New Answer;Paraphrase 1;Paraphrase 2;keep;Notes\n"
        'a;Who wrote Hamlet?;;Bacon;Hamlet is by;"Hamlet was\nwritten by";{} is set in|{} has;mine\n'
        "\n;;;;;;;\n"
        "b;Who wrote Faust?;Goethe;Bacon;;;;\n"
    )
    read = read_facts(written(tmp_path / "facts.csv", text))
    first, second = read
    assert (first.id, first.text, first.subject, first.target_new) == (
        "a",
        "Who wrote Hamlet?",
        "Hamlet",
        "Bacon",
    )
    assert first.paraphrases == ("Hamlet is by", "Hamlet was", "written by")
    assert first.keep == ("{} is set in", "{} has")
    assert (second.target_true, second.paraphrases) == ("Goethe", ())
    assert read.lines == (2, 6)
    assert read.schema == "native"


def test_a_column_of_lists_takes_json(tmp_path: Path) -> None:
    text = 'prompt\tsubject\ttarget\tkeep\n{} is\tFrance\told\t"[""{} has | a"", ""{} speaks""]"\n'
    (fact,) = read_facts(written(tmp_path / "facts.tsv", text))
    assert fact.keep == ("{} has | a", "{} speaks")


def test_excel_says_what_separates_cells(tmp_path: Path) -> None:
    text = "sep=;\r\nprompt;subject;target\r\n{} is, a;Ada;b, c\r\n"
    (fact,) = read_facts(written(tmp_path / "facts.csv", text))
    assert (fact.prompt, fact.target_new) == ("{} is, a", "b, c")


HEADER = "prompt,subject,target\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param("x,y\n1,2\n", r":1: expected names of columns.* found 'x,y'", id="no header"),
        pytest.param("\n\n", "expected at least one fact, found none", id="empty"),
        pytest.param(
            "prompt,answer,target\n", r":1: two columns are target_new: 'answer' and 'target'", id="twice"
        ),
        pytest.param("prompt,prompt\n", r":1: two columns are prompt", id="the same"),
        pytest.param(
            "prompt,color\n", r":1: no column is called 'color'; columns are id, text,", id="unknown"
        ),
        pytest.param(f"{HEADER}a,b\n", r":2: expected 3 cells.* found 2", id="short"),
        pytest.param(f"{HEADER}\na,b,c,d\n", r":3: expected 3 cells.* found 4", id="long"),
        pytest.param(f'{HEADER}"a"b,c,d\n', r":2: not a row of a table", id="text behind a quote"),
        pytest.param(f'{HEADER}"a,b,c\n\n\n', r":2: not a row of a table", id="open quote"),
        pytest.param(f"{HEADER}{'x' * 140_000},b,c\n", r":2: not a row of a table: field larger", id="huge"),
        pytest.param(f"{HEADER}a,b\0,c\n", r":2: expected text, found a null character at 3", id="null"),
        pytest.param(
            HEADER.encode() + b"caf\xe9,b,c\n", r":2: expected UTF-8, found byte 0xe9 at 3", id="Latin-1"
        ),
        pytest.param(HEADER.encode("utf-16"), r":1: expected UTF-8, found UTF-16", id="UTF-16"),
        pytest.param(",".join(["keep"] * 1001), r":1: expected at most 1000 columns, found 1001", id="wide"),
        pytest.param(
            "prompt,subject,target,keep\n{} is,a,b,[1]\n", r":2: keep: expected a JSON array", id="list"
        ),
        pytest.param("sep=;\n", r":1: expected names of columns, found an empty file", id="no names"),
        pytest.param(f"{HEADER}{{}} is,,b\n", r":2: subject: expected a value", id="no subject"),
        pytest.param(f"{HEADER}{{}} is,a,\n", r":2: target_new: expected a value", id="no target"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, raw: bytes | str, message: str) -> None:
    with pytest.raises(FactError, match=message) as caught:
        read_facts(written(tmp_path / "facts.csv", raw))
    assert str(caught.value).startswith(str(tmp_path / "facts.csv"))
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_skipped(tmp_path: Path) -> None:
    text = f"{HEADER}{{}} is,a,b\nx,y\n{{}} is,c,d\n"
    read = read_facts(written(tmp_path / "facts.csv", text), skip_invalid=True)
    assert [fact.subject for fact in read] == ["a", "c"]
    assert [skipped.line for skipped in read.skipped] == [3]


def test_a_row_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "facts.csv", f"{HEADER}{'a,' * 10_000}\n")
    with (
        patch("moe_patch.data.lines.MAX_RECORD", 1000),
        pytest.raises(FactError, match=r":2: expected a line of"),
    ):
        list(tables.read_rows(path))
    path = written(tmp_path / "facts.csv", HEADER + '"' + "a\n" * 10_000)
    with patch.object(tables, "MAX_RECORD", 1000), pytest.raises(FactError, match="is a quote not closed"):
        list(tables.read_rows(path))
