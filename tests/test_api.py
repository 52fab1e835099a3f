"""The page of public names, docs/api.md: complete, with the signatures as they are, and examples that run."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import moe_patch

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OTHERS_MAKE = {"Base", "MoePatchError", "Patch"}  # and so their signatures are of no use to callers


def signature(name: str) -> str:
    """How a name is called, with the types, without white space."""
    value = getattr(moe_patch, name)
    found = inspect.signature(value)
    written: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in written:
            written.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        written.append(f"{stars}{parameter.name}:{parameter.annotation}{default}")
    returned = "" if inspect.isclass(value) else f"->{found.return_annotation}"
    return "".join(f"{name}({','.join(written)}){returned}".split())


def test_every_public_name_has_a_section_and_no_other_has() -> None:
    assert sorted(SECTIONS) == sorted(moe_patch.__all__)


@pytest.mark.parametrize("name", sorted(set(moe_patch.__all__) - OTHERS_MAKE))
def test_signatures_are_those_of_the_code(name: str) -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
    assert "".join(shown.split()).replace(",)", ")") == signature(name)


@pytest.mark.parametrize("name", sorted(moe_patch.__all__))
def test_every_section_has_an_example(name: str) -> None:
    assert f"moe_patch.{name}" in SECTIONS[name] or name in OTHERS_MAKE
    assert "```pycon" in SECTIONS[name]


def test_the_examples_do_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(session, {}, "docs/api.md", None, None)
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert results.attempted > len(moe_patch.__all__)
    assert not results.failed, "".join(said)
