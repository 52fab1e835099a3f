"""Reports: figures against the records, seeds against the standard library, and texts of strangers."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from html.parser import HTMLParser
from typing import Any

import pytest

from moe_patch.bench.record import RunRecord
from moe_patch.bench.report import (
    RunSet,
    compare,
    comparison_table,
    csv_text,
    free_table,
    html_page,
    score_table,
    summary_table,
)
from moe_patch.bench.report.drawings import COLOURS, arm_styles
from moe_patch.bench.report.figures import Figure, figures_of

HOSTILE = '<script>alert("x")</script> $\\frac{1}$ & \u202e'


def score(value: float | None, n: int = 10) -> dict[str, Any]:
    interval = None if value is None else [max(0.0, value - 5), min(100.0, value + 5)]
    return {"value": value, "interval": interval, "n": n}


def evaluation(value: float) -> dict[str, Any]:
    names = ("efficacy", "generalization", "specificity", "utility")
    scores = {name: score(value) for name in names}
    layers = [{"layer": i, "similarity": 90.0 - i, "divergence": 0.1, "tokens": 7} for i in range(3)]
    return {
        "rule": "counterfact",
        "facts": 10,
        **scores,
        "exact": scores,
        "locality": score(80.0),
        "portability": score(None, 0),
        "free": {
            name: {
                "budget": 32,
                "reliability": {"exact": score(reliability), "contained": score(reliability)},
                "stopped": score(0.0),
            }
            for name, reliability in (("base", 2.5), ("patched", 12.5))
        },
        "base": {**{name: score(3.0) for name in names}, "exact": scores},
        "routing": {"edited": {"similarity": 88.0, "divergence": 0.2, "layers": layers}, "preserved": None},
    }


def record(arm: str = "MoEEdit", seed: int = 0, value: float = 50.0, **fields: Any) -> RunRecord:
    whole: dict[str, Any] = {
        "format": 1,
        "key": "0" * 16,
        "status": "done",
        "suite": "mine",
        "arm": arm,
        "method": "moeedit",
        "kind": "delta",
        "rival": False,
        "mode": "sequential-batch",
        "batch_size": 5,
        "seed": seed,
        "data": {"name": "towns", "records": "native", "facts": 10, "hash": "sha256:0"},
        "base": {
            "name": "tiny",
            "root": "sha256:1",
            "dtype": "float32",
            "device": "cpu",
            "layers": 3,
            "experts": 8,
        },
        "config": {"given": {"ridge": 0.1}},
        "versions": {"python": "3.11"},
        "created": f"2026-01-01T00:00:0{seed}+00:00",
        "evaluation": evaluation(value),
        "curve": [{"facts": 5, "efficacy": 60.0}, {"facts": 10, "efficacy": value}],
        "seconds": {"solve": 1.0, "build": 2.0 + seed},
        "memory": {"host_before": 100, "host_peak": 300, "device_before": None, "device_peak": None},
        "size": {"bytes": 1000, "experts": 4, "rank": 2},
        "perplexity": {"tokens": 9, "perplexity": {"before": 10.0, "after": 12.0}},
        "convergence": {"1": [[3.0, 2.0, 1.5]]},
        "texts": [{"kind": "fact", "prompt": "A is", "wanted": "B", "before": "C", "after": "B"}],
    }
    return RunRecord.model_validate(whole | fields)


def test_every_score_and_number_of_a_record_is_a_figure() -> None:
    found = figures_of(record(value=70.0))
    assert found["efficacy"] == Figure(70.0, 65.0, 75.0, 10)
    assert found["base.efficacy"].value == 3.0
    assert found["free.patched.reliability.exact"].value == 12.5
    assert found["routing.edited.similarity"].value == 88.0
    assert found["text.perplexity.after"].value == 12.0
    assert found["memory.host_added"].value == 200
    assert found["seconds.build"].value == 2.0
    assert "portability" not in found  # it has no value
    assert "memory.device_peak" not in found


def test_seeds_become_mean_and_deviation() -> None:
    values = [50.0, 60.0, 55.0]
    runs = RunSet.of("runs", [record(seed=seed, value=value) for seed, value in enumerate(values)])
    (group,) = runs.groups
    figure = group.figures["efficacy"]
    assert figure.value == pytest.approx(statistics.fmean(values))
    assert figure.deviation == pytest.approx(statistics.stdev(values))
    assert (figure.low, figure.high) == (pytest.approx(50.0), pytest.approx(60.0))
    assert figure.seeds == 3
    (section,) = runs.sections
    grid = score_table(section)
    assert grid.rows[1][grid.columns.index("efficacy")] == "55.0 ± 5.0"
    assert [run["seeds"] for run in runs.to_json()["runs"]] == [[0, 1, 2]]


def test_the_base_has_the_first_row() -> None:
    (section,) = RunSet.of("runs", [record()]).sections
    grid = score_table(section)
    base = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert base["efficacy"] == "3.0 (0.0 to 8.0)"
    assert base["perplexity"] == "10.00"
    assert base["build s"] == "-"


def test_free_writing_has_a_table_with_the_base_in_the_first_row() -> None:
    (section,) = RunSet.of("runs", [record()]).sections
    grid, brief = free_table(section), free_table(section, brief=True)
    assert grid is not None
    assert grid.columns == ("", "reliability exact", "reliability contained", "stopped")
    assert [row[1] for row in grid.rows] == ["2.5 (0.0 to 7.5)", "12.5 (7.5 to 17.5)"]
    assert brief is not None
    assert brief.columns == ("", "reliability")
    (unasked,) = RunSet.of("runs", [record(evaluation=evaluation(50.0) | {"free": None})]).sections
    assert free_table(unasked) is None


def test_settings_are_sections_and_failures_are_apart() -> None:
    other = {"name": "other", "records": "native", "facts": 4, "hash": "sha256:2"}
    runs = RunSet.of("runs", [record(), record(data=other), record("bad", status="failed", error="no room")])
    assert [section.title for section in runs.sections] == [
        "tiny: 10 facts of towns, sequential-batch of 5",
        "tiny: 4 facts of other, sequential-batch of 5",
    ]
    assert [each.arm for each in runs.failed] == ["bad"]
    assert len(summary_table(runs).rows) == 2


@pytest.mark.parametrize(("a", "b", "expected"), [(50.0, 58.0, "overlap"), (50.0, 61.0, "apart")])
def test_two_runs_are_compared_with_their_intervals(a: float, b: float, expected: str) -> None:
    first, second = RunSet.of("a", [record("x", value=a)]), RunSet.of("b", [record("y", value=b)])
    comparison = compare(first, second)
    (pair,) = comparison.pairs
    row = next(row for row in comparison_table(comparison, pair).rows if row[0] == "efficacy")
    assert row[3:] == (f"{b - a:+.4g}", expected)
    data = comparison.to_json()["pairs"][0]["figures"]["efficacy"]
    assert data["difference"] == b - a
    assert data["intervals_overlap"] is (expected == "overlap")


def test_sets_of_runs_are_compared_arm_by_arm() -> None:
    first = RunSet.of("a", [record("x"), record("y")])
    second = RunSet.of("b", [record("y", value=90.0), record("z")])
    comparison = compare(first, second)
    assert [pair.first.arm for pair in comparison.pairs] == ["y"]
    assert [group.arm for group in comparison.only_first] == ["x"]
    assert [group.arm for group in comparison.only_second] == ["z"]


def test_the_csv_has_every_figure_of_every_run_and_no_formula() -> None:
    runs = RunSet.of(
        "runs", [record("=1+1"), record("bad", status="failed", error="no\nroom", evaluation=None)]
    )
    rows = list(csv.DictReader(io.StringIO(csv_text(runs))))
    assert {row["arm"] for row in rows} == {"'=1+1", "bad"}
    of_first = {row["figure"]: row for row in rows if row["arm"] == "'=1+1"}
    assert of_first.keys() == figures_of(runs.records[0]).keys()
    assert float(of_first["efficacy"]["low"]) == 45.0
    assert [row["error"] for row in rows if row["error"]] == ["no\nroom"]


class Page(HTMLParser):
    """The elements of a page, their attributes and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("matplotlib")
    text = [{"kind": "fact", "prompt": HOSTILE, "wanted": HOSTILE, "before": HOSTILE, "after": None}]
    data = {"name": HOSTILE, "records": "native", "facts": 10, "hash": "sha256:0"}
    records = [
        record(f"{HOSTILE} {i}", value=40.0 + i, data=data, texts=text, varied={"ridge": 10.0**-i})
        for i in range(3)
    ]
    failed = record(
        "bad", status="failed", error=HOSTILE, evaluation=None, config={"given": {HOSTILE: HOSTILE}}
    )
    runs = RunSet.of(HOSTILE, [*records, failed])
    return html_page(runs)


def test_what_strangers_wrote_is_text(page: str) -> None:
    found = Page(page)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\u202e" not in page
    shown = "".join(found.texts)
    assert shown.count('<script>alert("x")</script>') > 10
    assert "mathdefault" not in shown


def test_the_page_needs_no_network(page: str) -> None:
    found = Page(page)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    for name, value in found.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert str(value).startswith("#")
    assert not re.findall(r"url\((?!['\"]?#)", page)
    assert "@import" not in page


def test_the_page_has_the_tables_and_the_drawings(page: str) -> None:
    shown = "".join(Page(page).texts)
    for title in (
        "Reliability against locality",
        "Along the edits: efficacy",
        "Routing by layer, edited prompts",
        "efficacy by ridge",
        "Convergence of the solver",
        "Build, seconds",
        "Patch, MB",
        "What the model writes until it stops",
        "What the model writes, before and after",
    ):
        assert title in shown, title
    assert page.count("<svg") == page.count("</svg>") > 8


def test_lines_and_letters_have_the_pages_colour_in_both_themes(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    inside = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    colours = set(re.findall(r"#[0-9a-f]{6}", inside)) - set(COLOURS)
    assert colours <= {"#ffffff"}, colours  # what is transparent


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("ground", ["#f5f6f8", "#1c2027"])
def test_colours_can_be_told_from_both_grounds(colour: str, ground: str) -> None:
    lighter, darker = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3  # WCAG's bound for graphics


def test_no_two_of_many_arms_look_alike() -> None:
    styles = arm_styles([str(i) for i in range(60)])
    assert len(set(styles.values())) == 60


def test_a_page_of_two_sets_compares_them() -> None:
    pytest.importorskip("matplotlib")
    first, second = RunSet.of("before", [record()]), RunSet.of("after", [record(value=90.0)])
    shown = "".join(Page(html_page(first, compare(first, second))).texts)
    assert "Compared" in shown
    assert "+40" in shown
    assert "apart" in shown


def test_models_of_several_sizes_show_the_cost_against_experts() -> None:
    pytest.importorskip("matplotlib")
    small = record()
    large = record(base=small.base.model_dump() | {"name": "large", "experts": 64})
    page = html_page(RunSet.of("runs", [small, large]))
    assert "Solve against experts" in page
    assert "Solve against experts" not in html_page(RunSet.of("runs", [small]))


def test_reports_as_json_are_plain_data() -> None:
    runs = RunSet.of("runs", [record(), record("bad", status="failed", error="no room", evaluation=None)])
    assert json.loads(json.dumps(runs.to_json()))["errors"] == [{"arm": "bad", "seed": 0, "error": "no room"}]
