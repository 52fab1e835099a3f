"""Every type of model that transformers has: all that a user does holds, or opening says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from moe_patch.base.opening import open_base
from moe_patch.checkpoint.folder import open_meta
from moe_patch.errors import ModelError
from tests.architectures.journey import Outcome, travel
from tests.architectures.registry import ModelType, model_types
from tests.architectures.results import ROOT, read_results, table
from tests.conftest import Notices

RELEASE, STORED = read_results()

QUICK = {"deepseek_v4", "glm4v_moe", "gpt_oss", "jamba", "kimi_linear", "llava", "qwen3_5_moe", "qwen3_moe"}
CASES = [
    pytest.param(one, id=str(one), marks=[] if one.name in QUICK else pytest.mark.slow)
    for one in model_types()
]


@pytest.mark.parametrize("model_type", CASES)
def test_all_holds_or_opening_refuses(model_type: ModelType, tmp_path: Path, notices: Notices) -> None:
    outcome = travel(model_type, tmp_path)
    # Janus's own `generate` passes it on in the old way
    notices.texts[:] = [text for text in notices.texts if "guidance_scale" not in text]
    if outcome.refusal is not None:
        assert "\n" not in outcome.refusal
        with pytest.raises(ModelError):
            open_meta(tmp_path / "base")
    if transformers.__version__ == RELEASE:
        assert outcome == STORED[str(model_type)], "run `make models`"


def test_every_type_is_in_the_stored_results() -> None:
    known = {str(one) for one in model_types()}
    if transformers.__version__ == RELEASE:
        assert known == STORED.keys(), "run `make models`"
    assert {"qwen3_moe", "qwen3_vl_moe", "mistral3 with mistral4", "llava with mixtral"} <= known


def test_the_readme_shows_the_stored_results() -> None:
    assert table(RELEASE, STORED) in (ROOT / "README.md").read_text(encoding="utf-8"), "run `make models`"


def test_a_table_of_outcomes() -> None:
    outcomes = {
        "a": Outcome(),
        "b": Outcome(warning="a norm follows"),
        "c with d": Outcome(whole=True),
        "e": Outcome(refusal="e cannot be edited: it has no head"),
    }
    rows = table("5.0", outcomes).splitlines()[2:-1]
    assert rows == [
        "| composites, with the text model that they were tried with | `c` (d) |",
        "| edited | `a` |",
        "| edited, with a warning: a norm follows | `b` |",
        "| refused: it has no head | `e` |",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "no_such_type"}', "does not know its model type 'no_such_type'"),
        ('{"hidden_size": 8}', "its config.json names no model_type"),
        ('{"model_type": "qwen3_vl_moe_text"}', "has no class for it that continues text"),
        ('{"model_type": "mixtral", "hidden_size": "wide"}', "hidden_size"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    for opening in (open_base, open_meta):
        with pytest.raises(ModelError, match=message) as caught:
            opening(tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
