"""The documents that lead through the code, against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
GUIDES = ["CONTRIBUTING.md", "docs/adding_a_method.md", "docs/adding_a_model.md", "docs/architecture.md"]


def tree() -> Iterator[str]:
    """The folders in the tree of docs/architecture.md, as paths from the root."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    above: list[str] = []
    for line in text.partition("## The tree")[2].split("```")[1].strip().splitlines():
        indent, name = re.match(r"( *)(\S+)/ ", line).groups()  # type: ignore[union-attr]
        above[len(indent) // 2 :] = [name]
        yield "/".join(above)


def defined_in(path: Path) -> set[str]:
    """The names of a module's functions, classes, methods and constants."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_the_tree_has_every_package_and_no_folder_that_is_not_there() -> None:
    listed = list(tree())
    assert [folder for folder in listed if not (ROOT / folder).is_dir()] == []
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("moe_patch", "serving", "recipes")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert packages <= set(listed)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_name_that_leads_to_a_module_is_defined_there(document: Path) -> None:
    for name, target in re.findall(r"\[`(\w+)`\]\(([^)#:]+\.py)\)", document.read_text(encoding="utf-8")):
        assert name in defined_in(document.parent / target), f"{target} has no {name}"


@pytest.mark.parametrize("name", GUIDES)
def test_the_paths_that_a_guide_names_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:moe_patch|serving|recipes|tests|docs|\.ci)/[\w./]*)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
