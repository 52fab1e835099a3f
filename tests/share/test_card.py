"""The card of a patch, as the Hub's own classes and a reader of Markdown understand it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import moe_patch
from moe_patch.cli import main
from moe_patch.errors import ConfigError
from moe_patch.patch import Patch
from moe_patch.share.card import EXAMPLES, is_untouched_card, model_card
from moe_patch.share.eval_report import EvalReport
from tests.patch.patches import delta_patch
from tests.share.reports import eval_json

WHERE = "hf://org/capitals"

HOSTILE = [
    "a\n---\nlicense: mit\n---\n# b",
    "a\r\n\r\n# heading\r\n",
    "`code` ```\nrm -rf /\n```",
    "| a | b |\n|---|---|",
    "<script>alert(1)</script><img src=x onerror=y>",
    "--> <!-- moe-patch card",
    "[link](http://evil) ![image](http://evil/x.png) http://evil www.evil.com a@b.c",
    "\u202etxet\x1b[2J\0",
    "{{ 7 * 7 }} $HOME $(id)",
    "x" * 60_000,
    "*bold* _it_ ~~gone~~ \\",
]


class _Tags(HTMLParser):
    """The tags of a page, and the text beside them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(card: str) -> _Tags:
    return _Tags(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(ModelCard(card).text))


def hostile(patch: Patch, text: str) -> Patch:
    """The patch with a text of a stranger wherever its schema allows one."""
    subject = text.replace("{}", "") or "x"
    fact = replace(patch.facts[0], subject=subject, target_new=text, target_true=text, id=text)
    return replace(
        patch,
        method=text[:256],
        base=replace(patch.base, model_type=text[:256]),
        facts=(fact, *patch.facts[1:]),
        results=tuple({"taken": False, "says": text} for _ in patch.facts),
        tools={text[:256]: text[:256]},
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_in_a_patch_becomes_markup_or_metadata(text: str) -> None:
    plain = replace(delta_patch(), results=({"taken": False},) * 3)
    expected, found = model_card(plain, WHERE), model_card(hostile(plain, text), WHERE)
    assert ModelCard(found).data.to_dict() == ModelCard(expected).data.to_dict()
    assert rendered(found).tags == rendered(expected).tags
    assert len(found) < 2 * len(expected)
    assert is_untouched_card(found)


def test_what_a_patch_says_can_be_read() -> None:
    patch = hostile(delta_patch(), "a | `b` <c> *d*\ne")
    assert "a | `b` <c> *d*\\ne" in rendered(model_card(patch, WHERE)).text


def test_metadata_is_what_the_hub_reads() -> None:
    report = EvalReport.model_validate(eval_json(delta_patch().hash))
    card = ModelCard(
        model_card(delta_patch(), WHERE, base_model="Qwen/X", license_id="apache-2.0", report=report)
    )
    assert card.data.base_model == "Qwen/X"
    assert card.data.get("base_model_relation") == "adapter"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "moe-patch"
    assert card.data.tags == ["moe-patch", "knowledge-editing", "delta"]
    assert card.data.model_name == "capitals"
    results = {each.metric_type: each.metric_value for each in card.data.eval_results or ()}
    assert results == dict.fromkeys(("efficacy", "generalization", "specificity", "utility"), 87.5) | {
        "locality": 50.0
    }


def test_the_bases_scores_stand_beside_and_those_of_generated_prompts_are_marked() -> None:
    text = model_card(
        delta_patch(),
        WHERE,
        report=EvalReport.model_validate(eval_json("sha256:" + "0" * 64, generated=True)),
    )
    assert "| efficacy | 87.5 | 52.9 to 97.8 | 25.0 | 8 |" in text
    assert "| generalization (generated) | 87.5 | 52.9 to 97.8 | 25.0 | 8 |" in text
    assert "| generalization |" not in text  # there were no such prompts
    assert {each.metric_type for each in ModelCard(text).data.eval_results or ()} >= {
        "efficacy",
        "generalization_generated",
    }


def test_without_an_evaluation_the_build_speaks() -> None:
    taken = replace(delta_patch(), results=({"taken": True}, {"taken": True}, {"taken": False}))
    text = model_card(taken, WHERE)
    assert "66.7% of its facts" in text
    assert [each.metric_value for each in ModelCard(text).data.eval_results or ()] == [66.67]
    silent = model_card(delta_patch(), WHERE)
    assert "the patch stores none of its build" in silent
    assert not ModelCard(silent).data.eval_results
    assert ModelCard(silent).data.model_name is None


def test_nothing_is_guessed() -> None:
    card = ModelCard(model_card(delta_patch(), WHERE))
    assert not {"license", "base_model", "base_model_relation"} & card.data.to_dict().keys()
    assert "None was given: ask the owner" in card.text
    demo = ModelCard(model_card(delta_patch(), WHERE, base_model="atlas"))  # which is no model of the Hub
    assert "base_model" not in demo.data.to_dict()
    assert "--model atlas" in demo.text


def test_some_facts_stand_for_many() -> None:
    text = model_card(delta_patch(num_facts=12), WHERE)
    assert "12 facts" in text
    assert text.count("The capital of Land") == EXAMPLES


@pytest.mark.parametrize("name", ["./folder", "a b", "x\ny", "a/b/c", "-x/y", "", "a`b", "$(id)"])
def test_a_base_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--base-model: .* is no name on the Hub") as caught:
        model_card(delta_patch(), WHERE, base_model=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Apache 2.0", "mit\n---", "`mit`", "", "x" * 100])
def test_a_licence_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--license: .* is no licence of the Hub"):
        model_card(delta_patch(), WHERE, license_id=name)


def test_a_card_knows_whether_somebody_changed_it() -> None:
    card = model_card(delta_patch(), WHERE)
    assert is_untouched_card(card)
    assert is_untouched_card(card.rstrip())
    for other in (card + "more", card.replace("capitals", "rivers"), "# Mine", "", card * 2):
        assert not is_untouched_card(other)


def of_kind(kind: str) -> Patch:
    return delta_patch() if kind == "delta" else delta_patch(kind=kind, layers={})


@pytest.mark.parametrize("kind", ["delta", "bypass", "prompt"])
@pytest.mark.parametrize("where", [WHERE, f"{WHERE}/eu/rivers.safetensors@v2"])
def test_the_commands_of_a_card_exist(
    kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("patch.safetensors").touch()
    Path("moe-patch.stack").touch()
    Path("patched").mkdir()
    blocks = re.findall(r"```sh\n(.*?)\n```", model_card(of_kind(kind), where), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [*lines[0][:3]] == ["moe-patch", "pull", where]
    for line in lines:
        command: click.Command = main
        words = line[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        command.make_context(line[1], words)  # fails for an option or a value that it does not take


@pytest.mark.parametrize("kind", ["delta", "bypass"])
def test_the_code_of_a_card_can_be_run(kind: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)\n```", model_card(of_kind(kind), WHERE), re.DOTALL)
    compile(code, "card", "exec")
    for name in re.findall(r"moe_patch\.(\w+)\(", code):
        assert callable(getattr(moe_patch, name))
