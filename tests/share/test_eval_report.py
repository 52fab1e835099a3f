"""What push takes for scores: what `moe-patch eval --json` prints of this patch, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_patch.errors import ConfigError
from moe_patch.share.eval_report import read_eval_report
from tests.patch.patches import digest
from tests.share.reports import eval_json


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("generated", [False, True])
def test_what_eval_prints_is_read(tmp_path: Path, generated: bool) -> None:
    report = read_eval_report(
        written(tmp_path / "scores.json", eval_json(digest(), generated=generated)), digest()
    )
    assert (report.efficacy.value, report.base.efficacy.value) == (87.5, 25.0)
    assert (report.generated is not None) == generated


def test_scores_of_another_patch_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "scores.json", eval_json(digest(1)))
    with pytest.raises(ConfigError, match=r"has the scores of the patch sha256:0+1, and this is sha256:0+:"):
        read_eval_report(path, digest())


def changed(**fields: Any) -> dict[str, Any]:
    return eval_json(digest()) | fields


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "NaN",
        "{" * 100_000,
        '{"a": 1, "a": 2}',
        {"evaluation": 1},
        {name: value for name, value in eval_json(digest()).items() if name != "base"},
        changed(efficacy={"value": 1e9, "interval": None, "n": 8}),
        changed(efficacy={"value": "87", "interval": None, "n": 8}),
        changed(locality={"value": 1.0, "interval": [1.0], "n": 8}),
        changed(schema="a\n---\nb"),
        changed(rule="# mine"),
        changed(facts=0),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConfigError, match=r"scores.json is no report of `moe-patch eval --json`: ") as caught:
        read_eval_report(written(tmp_path / "scores.json", content), digest())
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_eval_report(tmp_path, digest())
    (tmp_path / "raw.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no report"):
        read_eval_report(tmp_path / "raw.json", digest())
