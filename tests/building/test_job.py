"""The whole job in Python: the steps, what they tell, and what the patch records."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.building import BuildRequest, build_patch, open_job
from moe_patch.building.given import given_options
from moe_patch.data.fact_file import write_facts
from moe_patch.errors import ConfigError, FactError
from moe_patch.methods import get_method
from tests.methods.builds import facts
from tests.tiny import tiny_base

QUICK = {"layers": (1,), "projection": False, "targets.steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, base = tmp_path_factory.mktemp("model"), tiny_base("qwen3_moe")
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    write_facts(path, facts(3))
    return path


def test_a_build_from_facts_to_patch(edits: Path, model: Path) -> None:
    built = build_patch(BuildRequest(edits, model=model, given=QUICK))
    assert [fact.id for fact in built.patch.facts] == ["fact-0", "fact-1", "fact-2"]
    assert list(built.patch.layers) == [1]
    assert built.seconds > 0
    assert built.patch.hyperparameters["sources"] == dict.fromkeys(QUICK, "given")


def test_options_can_be_seen_before_the_build(edits: Path, model: Path) -> None:
    job = open_job(BuildRequest(edits, model=model, given={"projection": False, "targets.steps": 2}))
    choice = job.choose()
    assert [source.origin for source in choice.sources] == ["given", "given", "chosen"]
    built = job.run(choice)
    assert list(built.patch.layers) == list(choice.options.layers)  # type: ignore[attr-defined]
    assert str(built.patch.hyperparameters["sources"]["layers"]).startswith("chosen: ")  # type: ignore[index,call-overload]


def test_skipped_facts_are_told(tmp_path: Path, model: Path) -> None:
    edits = tmp_path / "facts.jsonl"
    edits.write_text('{"prompt": "{} lies in", "subject": "Ys", "target_new": "Kernow"}\n{"prompt": "no"}\n')
    told: list[str] = []
    job = open_job(BuildRequest(edits, model=model, skip_invalid=True), told.append)
    assert len(job.facts) == 1
    assert told[0].startswith("Skipped line 2: ")
    assert told[1:] == ["1 fact was skipped; 1 fact left."]


def test_facts_are_read_before_the_model_is_opened(tmp_path: Path) -> None:
    edits = tmp_path / "facts.jsonl"
    edits.write_text("{}\n")
    with pytest.raises(FactError):
        open_job(BuildRequest(edits, model=tmp_path / "nowhere"))


def test_a_schema_that_the_facts_do_not_have_is_refused(edits: Path) -> None:
    with pytest.raises(ConfigError, match=r"is for ZsRE records, but .* has native records"):
        open_job(BuildRequest(edits, schema="zsre-alt"))


def test_flags_have_the_names_that_the_method_has_for_them() -> None:
    flags = {"layers": [1], "seed": 3, "chat": True, "ridge": None}
    assert given_options(get_method("moeedit"), flags, ["targets.clamp=0.5", "seed=4"]) == {
        "layers": [1],
        "seed": 4,
        "targets.seed": 3,
        "targets.chat": True,
        "targets.clamp": 0.5,
    }
    assert given_options(get_method("memoe"), flags) == {"layer": [1], "seed": 3, "chat": True}
    assert given_options(get_method("memoe"), {"ridge": 2.0}) == {"ridge": 2.0}
