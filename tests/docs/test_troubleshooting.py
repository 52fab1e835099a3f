"""The page of errors, docs/troubleshooting.md, against the messages in the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.messages import is_said

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_one_of_the_source(message: str) -> None:
    assert is_said(message)


def test_every_row_of_the_page_has_a_message() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(MESSAGES) == len([row for row in rows if not row.startswith("| message |")]) > 20


@pytest.mark.parametrize("message", ["nobody says this", "exists already: ... nobody says this", "..."])
def test_what_nobody_says_is_not_found(message: str) -> None:
    assert not is_said(message)
