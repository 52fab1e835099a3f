"""Names that are nearly right: the error says which one was perhaps meant."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def error(run: Run, *words: str | Path) -> str:
    """The last line of a command that must fail without a traceback."""
    result = run(*words)
    assert result.exit_code in (1, 2), result.output
    return result.stderr.splitlines()[-1]


def test_commands_and_options(run: Run) -> None:
    assert "'--edits'" in error(run, "build", "--edit", "x")
    assert "'--force'" in error(run, "drop", "--forse")


def test_files(run: Run, patch_file: Path, tmp_path: Path) -> None:
    near = patch_file.with_name("rnadom.safetensors")
    assert error(run, "inspect", near).endswith(
        f"File '{near}' does not exist; did you mean 'random.safetensors'?"
    )
    assert "did you mean" not in error(run, "inspect", tmp_path / "gone" / "zzz")


def test_facts_and_patches_of_a_stack(run: Run, patch_file: Path, tmp_path: Path) -> None:
    dropped = error(run, "drop", patch_file, "--fact", "fact-", "-o", tmp_path / "out.safetensors")
    assert "there is no fact 'fact-' in the patch" in dropped
    assert "did you mean 'fact-" in dropped
    lock = tmp_path / "s"
    assert run("stack", "init", patch_file, "--stack", lock).exit_code == 0
    assert "did you mean 'random'?" in error(run, "stack", "disable", "randon", "--stack", lock)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--method", "moedit"), "moeedit"),
        (("--recipe", "altas"), "atlas"),
        (("--set", "targets.clmap=1"), "targets.clamp"),
        (("--set", "clamp=1"), "targets.clamp"),
    ],
)
def test_methods_recipes_and_settings(
    run: Run, edits: Path, model: Path, tmp_path: Path, words: tuple[str, str], meant: str
) -> None:
    build = ("build", "--edits", edits, "--model", model, "--out", tmp_path / "p.safetensors")
    assert f"did you mean {meant!r}" in error(run, *build, *words)


def test_facts_in_the_place_of_a_patch(run: Run, edits: Path) -> None:
    for command in (("eval", edits), ("inspect", edits), ("ask", "x", "--patch", edits)):
        said = error(run, *command)
        assert said == f"Error: {edits}: begins as a text does, and is no patch: facts are given with --edits"


@pytest.mark.parametrize(("layers", "said"), [("3-1", "as 1-3"), ("2,5-4", "as 4-5")])
def test_layers_the_wrong_way_round(run: Run, edits: Path, layers: str, said: str) -> None:
    for words in (("build", "--edits", edits), ("locate",), ("tune",)):
        assert error(run, *words, "--layers", layers).endswith(f"has no layers: a range goes upwards, {said}")


def test_the_version_has_a_short_form(run: Run) -> None:
    assert run("-V").stdout == run("--version").stdout == f"moe-patch, version {version('moe-patch')}\n"
