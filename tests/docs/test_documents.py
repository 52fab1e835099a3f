"""The marked blocks of the README and of docs/, run in order, each document in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import runnable
from tests.docs.running import DOCUMENTS, follow

RUNNABLE = [path for path in DOCUMENTS if runnable(path)]


@pytest.mark.slow
@pytest.mark.parametrize("document", RUNNABLE, ids=lambda path: path.name)
def test_a_document_can_be_followed_as_it_is_written(document: Path, tmp_path: Path) -> None:
    follow(document.name, runnable(document), tmp_path)


def test_the_readme_and_the_tutorial_are_run() -> None:
    assert {"README.md", "tutorial.md"} <= {path.name for path in RUNNABLE}
