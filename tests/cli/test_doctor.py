"""`moe-patch doctor`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from moe_patch.doctor import reference
from tests.cli.conftest import Run
from tests.doctor.installed import install


def test_json_holds_every_part(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path / "cache"))
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    assert str(tmp_path) not in result.output
    report = json.loads(result.stdout)
    assert report.keys() == {
        *("system", "releases", "devices", "storage", "plugin", "self_tests"),
        *("warnings", "passed"),
    }
    torch = next(release for release in report["releases"] if release["name"] == "torch")
    assert torch["installed"] == version("torch")
    assert report["storage"]["cache"] == str(Path("~") / "cache")
    assert report["plugin"].keys() == {"vllm", "supported", "off_because", "on"}
    (test,) = report["self_tests"]
    assert (test["device"], test["passed"], test["error"]) == ("cpu", True, None)
    assert all(check["passed"] for check in test["checks"])


def test_tables_without_a_self_test(run: Run) -> None:
    result = run("doctor", "--no-self-test")
    assert result.exit_code == 0
    for text in ("Releases", "transformers", version("transformers"), "Devices", "cpu", "plugin for vLLM"):
        assert text in result.stdout
    assert "Self-test" not in result.stdout


def test_a_result_that_is_not_the_stored_one_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = json.loads(reference.reference_file().read_text(encoding="utf-8"))
    stored["checks"]["norm of the delta by layer"]["values"][0] += 1
    stored["checks"]["answers, hooked"]["values"][1] = "Atlantis"
    changed = tmp_path / "reference.json"
    changed.write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.setattr(reference, "reference_file", lambda: changed)
    result = run("doctor", "--device", "cpu")
    assert result.exit_code == 1
    assert "Self-test on cpu: failed" in result.stdout
    norm, answers = (line for line in result.stderr.splitlines() if line.startswith("Failed"))
    assert norm.startswith("Failed on cpu: norm of the delta by layer: found 16.9")
    assert norm.endswith("expected 17.9135 within 0.005")
    assert answers.startswith("Failed on cpu: answers, hooked: found 'Nigerian Naira', 'South Korea'")
    assert "'Atlantis'" in answers


def test_a_release_out_of_range_is_a_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "moe-patch", "0.1.0", ["torch>=1,<2", "rich>=99"])
    monkeypatch.syspath_prepend(tmp_path)
    result = run("doctor", "--no-self-test")
    assert result.exit_code == 0
    assert f"Warning: torch {version('torch')} is newer than tested: expected >=1, <2" in result.stderr
    assert f"Warning: rich {version('rich')} is older than supported: expected >=99" in result.stderr
    report = json.loads(run("doctor", "--no-self-test", "--json").stdout)
    assert len(report["warnings"]) == 2
    assert report["passed"]


def test_a_device_that_is_not_there_is_refused(run: Run) -> None:
    result = run("doctor", "--device", "cuda:9")
    assert result.exit_code == 2
    assert "there is no device 'cuda:9' here: expected one of cpu" in result.stderr
