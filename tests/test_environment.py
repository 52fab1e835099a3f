"""The page of environment variables, docs/environment.md, against the source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIABLE = r"\b_?MOE_PATCH_[A-Z_]*[A-Z]\b"


def test_the_page_has_the_variables_of_the_source_and_no_others() -> None:
    modules = [path for top in ("moe_patch", "serving") for path in (ROOT / top).rglob("*.py")]
    used = {name for path in modules for name in re.findall(VARIABLE, path.read_text(encoding="utf-8"))}
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert len(used) > 1
    assert set(re.findall(rf"^\| `({VARIABLE})`", page, re.MULTILINE)) == used
