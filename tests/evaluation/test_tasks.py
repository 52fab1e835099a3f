"""Tasks of lm-evaluation-harness, on local data: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import ConfigError, EvaluationError
from moe_patch.evaluation import Setting
from moe_patch.evaluation.scoring import answer_text, continue_greedily, score_answers
from moe_patch.evaluation.tasks import expand_suites, measure_tasks, shipped_tasks, suites
from moe_patch.patch import Patch
from tests.tiny import tiny_base, tiny_patch

CHOICES = ["Ulm", "Rio", "Oslo"]
QUESTIONS = [f"Town {number} lies in" for number in range(12)]


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


@pytest.fixture
def patch(base: Base) -> Patch:
    return tiny_patch(base, [0, 1], scale=1.5)


def write_task(folder: Path, name: str, rows: list[dict[str, object]], **config: object) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    whole = {"task": name, **local, "test_split": "test", **config}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows: list[dict[str, object]] = [
        {"q": question, "a": place % 3} for place, question in enumerate(QUESTIONS)
    ]
    write_task(
        folder,
        "towns",
        rows,
        output_type="multiple_choice",
        doc_to_text="{{q}}",
        doc_to_target="{{a}}",
        doc_to_choice=CHOICES,
        metric_list=[{"metric": "acc"}],
    )
    return folder


def accuracy(base: Base) -> float:
    """The share of questions whose right choice is the likeliest as a whole."""
    right = 0
    for place, question in enumerate(QUESTIONS):
        scores = score_answers(base, [(question, choice) for choice in CHOICES])
        totals = [score.logprob * len(score.greedy) for score in scores]
        right += totals.index(max(totals)) == place % 3
    return right / len(QUESTIONS)


def test_choices_are_scored_with_and_without_the_patch(base: Base, patch: Patch, folder: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    report = measure_tasks(base, patch, ["towns"], Setting(batch_size=5), folder=folder)
    (score,) = report.scores
    assert (score.task, score.metric, score.n) == ("towns", "acc", 12)
    assert score.before == pytest.approx(accuracy(base))
    with apply(base, patch):
        assert score.after == pytest.approx(accuracy(base))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())
    assert json.loads(json.dumps(report.to_json()))["scores"][0]["before"] == score.before
    assert report.table().row_count == 1


def test_replies_follow_the_logits_alone(base: Base, patch: Patch, folder: Path) -> None:
    said = continue_greedily(base, QUESTIONS, [4] * len(QUESTIONS))
    rows: list[dict[str, object]] = [
        {"q": question, "a": answer_text(base, each)} for question, each in zip(QUESTIONS, said, strict=True)
    ]
    write_task(
        folder,
        "replies",
        rows,
        output_type="generate_until",
        doc_to_text="{{q}}",
        doc_to_target="{{a}}",
        generation_kwargs={"until": ["\u0000"], "max_gen_toks": 4, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    base.model.generation_config.repetition_penalty = 5.0  # which no task asks for
    (score,) = measure_tasks(base, patch, ["replies"], folder=folder, limit=8).scores
    assert (score.before, score.n) == (1.0, 8)
    assert score.after < 1.0
    assert base.model.generation_config.repetition_penalty == 5.0


def test_named_entities_are_listed_in_order(base: Base, patch: Patch, folder: Path) -> None:
    """The task that ships, on sentences of one's own: a reply cannot be right, but targets are made."""
    lm_tasks = pytest.importorskip("lm_eval.tasks")
    shipped = yaml.safe_load((shipped_tasks() / "conll03.yaml").read_text(encoding="utf-8"))
    online = ("task", "dataset_path", "dataset_kwargs", "validation_split", "fewshot_split", "num_fewshot")
    for field in online:
        del shipped[field]
    rows: list[dict[str, object]] = [
        {"tokens": ["Ann", "Lee", "left", "Ulm", "Rio", "."], "ner_tags": [1, 2, 0, 5, 5, 0]},
        {"tokens": ["It", "rains"], "ner_tags": [0, 0]},
        {"tokens": ["In", "New", "York"], "ner_tags": [0, 5, 6]},
    ]
    write_task(folder, "entities", rows, **shipped)
    manager = lm_tasks.TaskManager(include_path=str(folder), include_defaults=False)
    task = manager.load(["entities"])["tasks"]["entities"]
    targets = [task.doc_to_target(doc).strip() for doc in task.test_docs()]
    assert targets == ["Ann Lee; Ulm; Rio", "none", "New York"]


def test_a_task_without_data_is_named(base: Base, patch: Patch, folder: Path) -> None:
    (folder / "towns.jsonl").unlink()
    with pytest.raises(EvaluationError, match="the task towns of lm-evaluation-harness: "):
        measure_tasks(base, patch, ["towns"], folder=folder)


@pytest.mark.slow  # the harness reads thousands of files
def test_the_harness_knows_every_task_of_the_suites_and_no_others(
    base: Base, patch: Patch, folder: Path
) -> None:
    named = [task for tasks in suites().values() for task in tasks]
    with pytest.raises(ConfigError, match="has no task 'no-such-task'"):
        measure_tasks(base, patch, ["towns", *named, "no-such-task"], folder=folder)


def test_suites_stand_for_their_tasks() -> None:
    eight = expand_suites(["memoe-fig3"])
    assert len(eight) == 8
    assert expand_suites(["sst2", "memoe-fig3", "mine"]) == [
        "sst2",
        *(n for n in eight if n != "sst2"),
        "mine",
    ]
    with pytest.raises(ConfigError, match="at least one task"):
        expand_suites([])
