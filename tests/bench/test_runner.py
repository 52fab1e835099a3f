"""A bench: records are whole, finished runs stay, failures are recorded, and a killed bench goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_patch.base.model import Base
from moe_patch.bench.record import read_record, read_records
from moe_patch.bench.run import Asking
from moe_patch.bench.runner import run_bench
from moe_patch.cli import main
from moe_patch.errors import ConfigError, JudgeError
from moe_patch.evaluation.free.judge import Judge
from tests.bench.conftest import QUICK, bench, write_suite
from tests.evaluation.free.judge_server import judge_server
from tests.tiny import tiny_base


def test_a_record_holds_all_that_it_was_made_of(base: Base, edits: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (record,) = run_bench(bench(base, edits, out), base)
    (path,) = out.iterdir()
    assert read_record(path) == record
    assert record.key in path.name
    assert record.status == "done"
    assert record.base.root == base.fingerprint([]).root
    assert record.base.experts == base.layer(0).num_experts
    assert record.data.facts == 4
    assert record.config["options"]["targets"]["steps"] == 2  # type: ignore[index,call-overload]
    assert record.versions.keys() >= {"python", "torch", "transformers", "moe-patch"}


def test_what_is_finished_is_not_run_again(base: Base, edits: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "runs", []
    notice = lambda title, record: told.append((title, record))  # noqa: E731
    first = run_bench(bench(base, edits, out), base, notice=notice)
    assert len(told) == 2
    assert run_bench(bench(base, edits, out), base, notice=notice) == first
    assert len(told) == 2
    run_bench(bench(base, edits, out, seeds=[0, 1]), base, notice=notice)
    assert len(told) == 4
    assert len(read_records(out)) == 2


def test_runs_of_other_weights_are_run_again(base: Base, edits: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (first,) = run_bench(bench(base, edits, out), base)
    other = tiny_base("qwen3_moe", seed=1)
    (second,) = run_bench(bench(other, edits, out), other)
    assert first.key == second.key
    assert second.base.root != first.base.root
    assert read_records(out) == [second]


def test_preserved_text_counts_by_what_it_says_and_not_by_where_it_lies(
    base: Base, edits: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one" / "text.txt", tmp_path / "other" / "text.txt"
    for path in (one, other):
        path.parent.mkdir()
        path.write_text("Ships and trains.\n")

    def key(corpus: str) -> str:
        made = bench(base, edits, tmp_path, options=QUICK | {"corpus": corpus})
        return made.path(made.experiments[0], base)[1]

    assert key(str(one)) == key(str(other)) == key(str(one.parent))
    assert key(f"{one}=2") != key(str(one))
    before = key(str(other))
    other.write_text("Ships and cars.\n")
    assert key(str(other)) not in (before, key(str(one)))
    assert key(str(tmp_path / "nothing")) != before  # the run itself says what is missing


def test_a_failed_arm_is_recorded_and_the_others_go_on(base: Base, edits: Path, tmp_path: Path) -> None:
    arms = [{"method": "moeedit", "options": {"layers": [99]}}, {"method": "moeedit", "name": "good"}]
    failed, good = run_bench(bench(base, edits, tmp_path / "runs", arms=arms), base)
    assert failed.status == "failed"
    assert "layer 99 is out of range" in str(failed.error)
    assert failed.evaluation is None
    assert good.status == "done"
    told: list[str] = []
    run_bench(
        bench(base, edits, tmp_path / "runs", arms=arms), base, notice=lambda title, _: told.append(title)
    )
    assert len(set(told)) == 1  # a failed run is tried again


def test_a_defect_is_not_a_failed_arm(
    base: Base, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("moe_patch.bench.runner.measure_run", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        run_bench(bench(base, edits, tmp_path / "runs"), base)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no runs: expected a folder that moe-patch bench has written"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a.json is no run of a bench: key: expected a value"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a.json is no run of a bench"):
        read_records(tmp_path)


@pytest.mark.slow
def test_a_killed_bench_goes_on_where_it_was(base: Base, edits: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "runs"
    base.model.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    suite = write_suite(tmp_path / "quick.yaml", seeds=list(range(200)))
    command = ["bench", "--suite", suite, "--model", model, "--edits", edits, "--out", out]
    started = subprocess.Popen(
        [sys.executable, "-c", "from moe_patch.cli import main; main()", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while started.poll() is None and (not out.exists() or len(list(out.glob("*.json"))) < 2):
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    _, said = started.communicate()
    assert started.returncode == -signal.SIGKILL, said.decode()
    before = {record.key: record.created for record in read_records(out)}
    assert 2 <= len(before) < 200
    again = [*map(str, command), "--seeds", ",".join(map(str, range(len(before) + 1))), "--json"]
    done = CliRunner().invoke(main, again)
    assert done.exit_code == 0, done.output
    after = {record.key: record.created for record in read_records(out)}
    assert len(after) == len(before) + 1
    assert after.items() >= before.items()
    assert all(path.suffix == ".json" for path in out.iterdir())
    assert json.loads(done.stdout)["done"] == len(after)


def test_a_judge_belongs_to_what_a_run_is_and_ends_a_bench_that_it_fails(
    base: Base, edits: Path, tmp_path: Path
) -> None:
    arms = [{"method": "moeedit"}, {"method": "woodbury-spread"}]
    with judge_server(lambda _: "error") as server:
        judged = bench(base, edits, tmp_path / "runs", Asking(judge=Judge(server.url, "grader")), arms=arms)
        with pytest.raises(JudgeError, match="the judge grader at"):
            run_bench(judged, base)
        asked = len(server.requests)
    assert not list((tmp_path / "runs").iterdir())
    assert asked, "the judge was asked by the first arm"
    plain = bench(base, edits, tmp_path / "runs", arms=arms)
    assert plain.path(plain.experiments[0], base) != judged.path(judged.experiments[0], base)
