"""What the project says about itself, against what it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click

from moe_patch.cli import main

ROOT = Path(__file__).parent.parent


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_uses_commands_and_options_that_exist() -> None:
    used = [line.split() for line in readme().splitlines() if re.match(r"(\$ | {4})moe-patch \w", line)]
    assert used
    for words in used:
        command: click.Command = main
        for word in words[words.index("moe-patch") + 1 :]:
            if not isinstance(command, click.Group):
                break
            command = command.commands[word]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, " ".join(words)


def anchors(document: Path) -> set[str]:
    """What links can point to within a document: its headings, as forges spell them in addresses."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", document.read_text(encoding="utf-8"))
        for target, anchor in links:
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name} links to {target}"
            assert not anchor or anchor in anchors(path), f"{document.name} links to {target}#{anchor}"


def test_every_package_is_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    folders = {"moe_patch": ROOT / "moe_patch"}
    folders |= {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    found = {
        ".".join((name, *module.parent.relative_to(folder).parts))
        for name, folder in folders.items()
        for module in folder.rglob("__init__.py")
    }
    left_out = {name for name in found if name.startswith("moe_patch.recipes.")}  # scripts of the checkout
    assert found - left_out == set(settings["packages"])
