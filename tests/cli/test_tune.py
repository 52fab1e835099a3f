"""`moe-patch tune`: a recipe as a file and in the cache, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.methods.recipes import load_recipe
from moe_patch.tuning import tune as tune_module
from tests.cli.conftest import Run
from tests.taught import MODEL
from tests.tiny import tiny_tokenizer
from tests.tuning.taught_calibration import GIVEN, taught_calibration

QUICK = [
    *("--layers", "0,1", "--set", "targets.margin=null", "--set", "targets.contexts=0"),
    *(word for name, value in GIVEN.items() for word in ("--set", f"{name}={json.dumps(value)}")),
]


@pytest.fixture(autouse=True)
def calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "calibrate", lambda *_, **__: taught_calibration())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    for path in MODEL.iterdir():
        (folder / path.name).symlink_to(path)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_recipe_is_written_and_kept_and_used_by_the_next_build(
    run: Run, taught: Path, edits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "recipe.yaml"
    result = run("tune", "--model", taught, "-o", out, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "Trials (" in result.stdout
    assert "Check, on 8 facts that were not searched on" in result.stdout
    recipe = load_recipe(out)
    assert f"{out}: recipe {recipe.name}" in result.stdout
    patch = tmp_path / "patch.safetensors"
    built = run("build", "--edits", edits, "--model", taught, "--out", patch, "--json")
    assert built.exit_code == 0, built.stderr
    origins = {one["option"]: one["from"] for one in json.loads(built.stdout)["options"]}
    assert origins["ridge"] == origins["layers"] == f"recipe {recipe.name}"
    described = json.loads(run("inspect", patch, "--json").stdout)
    assert (
        described["hyperparameters"]["sources"]["ridge"] == f"recipe {recipe.name}: found by moe-patch tune"
    )


def test_the_report_as_json(run: Run, taught: Path, edits: Path) -> None:
    result = run("tune", "--model", taught, "--no-keep", "--json", *QUICK)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["kept"] is False
    assert shown["file"] is None
    assert shown["finished"] is True
    assert shown["trials"][0]["changes"] == {}
    assert shown["check"]["default"]["facts"] == 8
    assert set(shown["recipe"]["methods"]) == {"moeedit"}
    later = run("build", "--edits", edits, "--model", taught, "--recipe", "tuned")
    assert "Error: no tuned recipe for " in later.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "memoe"], "Error: MEMoE cannot be tuned: "),
        (["--set", "clamp=1"], "Error: unknown option 'clamp': expected one of "),
        (["--minutes", "1e-9"], "Error: 1e-09 minutes are not enough to try the defaults once"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, taught: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "recipe.yaml"
    result = run("tune", "--model", taught, "-o", out, *QUICK, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert not out.exists()
