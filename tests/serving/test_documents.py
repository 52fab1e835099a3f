"""The documents' blocks that need vLLM, run in order with all others of their document."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import runnable
from tests.docs.running import DOCUMENTS, follow

SERVED = [path for path in DOCUMENTS if runnable(path, vllm=True) != runnable(path)]


@pytest.mark.parametrize("document", SERVED, ids=lambda path: path.name)
def test_a_document_can_be_followed_where_vllm_is(document: Path, tmp_path: Path) -> None:
    follow(document.name, runnable(document, vllm=True), tmp_path)


def test_the_readme_and_the_page_about_serving_are_run() -> None:
    assert {"README.md", "serving.md"} <= {path.name for path in SERVED}
