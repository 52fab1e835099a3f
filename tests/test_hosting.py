"""What hosts of repositories read, and the hooks: as their schemas and linters ask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCHEMAS = {
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/feature.yml": "vendor.github-issue-forms",
    "CITATION.cff": "vendor.citation-file-format",
}


def lint(tool: str, *arguments: str) -> None:
    """Run a linter of the environment; what it finds is the test's failure."""
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_files_follow_their_schemas(name: str) -> None:
    lint("check-jsonschema", "--builtin-schema", SCHEMAS[name], "--default-filetype", "yaml", name)


def test_yamllint_finds_nothing() -> None:
    lint(
        "yamllint",
        "--strict",
        "--config-file",
        "serving/deploy/.yamllint",
        ".github",
        ".pre-commit-config.yaml",
    )
