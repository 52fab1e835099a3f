"""The places that give the release's number, against each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def test_the_citation_is_of_this_project(project: dict[str, str]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert [citation[field] for field in ("title", "version", "license")] == [
        project[field] for field in ("name", "version", "license")
    ]


def test_the_changelog_starts_with_this_release_or_what_will_be_it(project: dict[str, str]) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["version"] in re.findall(r"^## .*?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)[:1]


def test_the_image_is_tagged_with_this_release(project: dict[str, str]) -> None:
    image = (ROOT / "serving" / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"--tag moe-patch:(\S+)", image) == [project["version"]]
