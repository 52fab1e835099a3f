"""The names that people give to the fields of a fact in tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pydantic import JsonValue

from moe_patch.errors import FactError

TEXT = "text"
"""The field of a whole sentence, which has a prompt and a new answer in it. It is no field of a fact."""

_NAMES = {
    "id": "id case_id key nr no number",
    TEXT: "text sentence statement fact",
    "prompt": "prompt question query q cloze ask",
    "subject": "subject entity about topic",
    "target_new": "target_new target answer new new_answer new_target answer_new a object value",
    "target_true": "target_true old old_answer answer_old true truth true_answer ground_truth before",
    "paraphrases": "paraphrases paraphrase rephrase rephrases rephrase_prompt paraphrase_prompts",
    "keep": "keep keep_prompt keep_prompts kept",
    "neighborhood": "neighborhood neighbourhood neighbors neighbours neighborhood_prompts",
    "neighborhood_answers": "neighborhood_answers neighbourhood_answers",
}
_FIELD_OF = {name: field for field, names in _NAMES.items() for name in names.split()}
_LISTS = frozenset({"paraphrases", "keep", "neighborhood", "neighborhood_answers"})
_REMARKS = frozenset({"note", "notes", "comment", "comments", "remark", "remarks", "source", "url", "link"})

_LONGEST_NAME = 100  # characters; no field has a longer one

Column = str | None
"""The field that a column is; None for a column of remarks."""


def known_columns(names: Sequence[str]) -> int:
    """How many of the names are those of fields."""
    return sum(_field(name) is not None for name in names)


def read_header(names: Sequence[str]) -> list[Column]:
    """The field of every column of a table.

    Raises:
        FactError: a name is unknown, or two columns are the same field, which only lists may be.
    """
    columns: list[Column] = []
    for name in names:
        if _plain(name) in _REMARKS:
            columns.append(None)
            continue
        field = _field(name)
        if field is None:
            problem = (
                f"no column is called {name[:_LONGEST_NAME]!r}; columns are {', '.join(_NAMES)}, and note"
            )
            raise FactError(problem)
        if field in columns and field not in _LISTS:
            raise FactError(f"two columns are {field}: {names[columns.index(field)]!r} and {name!r}")
        columns.append(field)
    return columns


def row_record(columns: Sequence[Column], cells: Sequence[str]) -> dict[str, JsonValue]:
    """A row as a record. Empty cells are left out. A cell of a list has one text, several between | or line
    breaks, or a JSON array.

    Raises:
        FactError: the row has more or fewer cells than there are columns, or a cell is no JSON array.
    """
    if len(cells) != len(columns):
        raise FactError(f"expected {len(columns)} cells, as many as the header has, found {len(cells)}")
    record: dict[str, JsonValue] = {}
    for field, cell in zip(columns, cells, strict=True):
        if field is None or not cell.strip():
            continue
        if field in _LISTS:
            earlier = record.get(field)
            record[field] = [*(earlier if isinstance(earlier, list) else []), *_texts(field, cell)]
        else:
            record[field] = cell.strip()
    return record


def _texts(field: str, cell: str) -> list[JsonValue]:
    if not cell.lstrip().startswith("["):
        return [text.strip() for text in re.split(r"[\n|]", cell) if text.strip()]
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise FactError(f"expected a JSON array of texts, found {cell[:60]!r}", field=field)
    return list(found)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name[:_LONGEST_NAME].strip().lower())


def _field(name: str) -> str | None:
    """The field of a column; a list may have columns with numbers ("paraphrase 2")."""
    plain = _plain(name)
    field = _FIELD_OF.get(plain)
    if field is None:
        listed = _FIELD_OF.get(re.sub(r"_?\d+$", "", plain))
        field = listed if listed in _LISTS else None
    return field
