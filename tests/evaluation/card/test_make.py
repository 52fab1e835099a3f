"""A card says what is so: of patches that take, that do nothing and that destroy the model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.card import Card, make_card
from moe_patch.evaluation.card.prompts import choose_prompts
from moe_patch.evaluation.card.report import verdict
from moe_patch.evaluation.metrics import Setting
from moe_patch.methods import get_method
from moe_patch.patch import Patch
from tests.taught import STRONG, edit, said, taught_base
from tests.tiny import tiny_base, tiny_patch

BOB = replace(
    edit("Bob"), paraphrases=("At home, Bob eats",), neighborhood=("Liz eats", "Ann eats", "We saw Anna eats")
)
FACTS = (edit("Ann"), BOB)


@pytest.fixture(scope="module")
def patch() -> Patch:
    method = get_method("moeedit")
    options = method.options(layers=(0,), projection=False, targets=STRONG)
    return method.build(taught_base(), FACTS, options)


def scaled(patch: Patch, factor: float) -> Patch:
    """The patch with a change as many times as large."""
    layers = {layer: replace(delta, left=factor * delta.left) for layer, delta in patch.layers.items()}
    return replace(patch, layers=layers)


@pytest.fixture(scope="module")
def card(patch: Patch) -> Card:
    return make_card(taught_base(), patch, seconds=3.5, size=12_345)


def test_every_reply_is_what_the_model_says_before_and_with_the_patch(card: Card, patch: Patch) -> None:
    base, prompts = taught_base(), [reply.prompt for reply in card.replies]
    before = said(base, prompts)
    with apply(base, patch, mode="hook"):
        now = said(base, prompts)
    assert [reply.before for reply in card.replies] == [text[:3].rstrip() for text in before]
    assert [reply.now for reply in card.replies] == [text[:3].rstrip() for text in now]
    for reply in card.replies:
        assert reply.good == (reply.now == reply.wanted)
        assert (reply.wanted == reply.before) or reply.kind != "neighbour"


def test_generated_prompts_are_for_facts_without_their_own(card: Card) -> None:
    kinds = {(reply.kind, reply.generated, reply.fact) for reply in card.replies}
    ann, bob = (fact.id for fact in FACTS)
    own = {("paraphrase", False, bob), ("neighbour", False, bob)}
    assert kinds == {
        ("fact", False, ann),
        ("fact", False, bob),
        *own,
        ("paraphrase", True, ann),
        ("neighbour", True, ann),
    }
    assert [reply.prompt for reply in card.replies if reply.fact == bob and reply.kind == "neighbour"] == [
        "Liz eats",
        "We saw Anna eats",
    ]  # and not what the patch may change for Ann
    assert card.measure("paraphrase") == card.of("paraphrase", generated=False)
    assert card.of("paraphrase").prompts == 5


def test_a_card_is_the_same_every_time_and_plain_data(card: Card, patch: Patch) -> None:
    again = make_card(taught_base(), patch, seconds=3.5, size=12_345)
    assert again == card
    written = json.loads(json.dumps(card.to_json(), allow_nan=False))
    names = {"facts", "said", "missed", "paraphrases", "neighbours", "text", "routing", "cost", "replies"}
    assert written.keys() == names | {"verdict"}
    assert written["said"] == {"share": 1.0, "good": 2, "prompts": 2}
    assert written["paraphrases"]["own"]["prompts"] == 1
    assert written["paraphrases"]["generated"]["prompts"] == 4
    assert written["replies"][0].keys() == {
        "kind",
        "generated",
        "fact",
        "prompt",
        "before",
        "now",
        "wanted",
        "good",
    }
    assert (written["cost"]["seconds"], written["cost"]["file"]) == (3.5, 12_345)
    assert written["text"]["divergence"] > 0


def test_a_patch_that_does_nothing_says_so(patch: Patch) -> None:
    card = make_card(taught_base(), replace(scaled(patch, 0.0), results=()))
    assert verdict(card) == "This patch changes nothing that was asked. None of 2 facts are said."
    assert card.of("neighbour").share == 1.0
    assert card.drift is not None
    assert card.drift.divergence < 1e-6
    assert card.routing == 100.0


def test_a_patch_that_destroys_the_model_says_so(patch: Patch) -> None:
    card = make_card(taught_base(), replace(scaled(patch, -300.0), results=()))
    assert verdict(card).startswith("Do not use this patch: it damages the model.")
    assert card.drift is not None
    assert card.drift.loss_after > card.drift.loss_before + 1


def test_the_model_is_compared_on_text_that_is_given(patch: Patch) -> None:
    text = Corpus("meals", ("Liz eats pea. Kim is in Oz.", "We saw that Jo is in Rio."))
    card = make_card(taught_base(), patch, text=text)
    assert card.text == "meals"
    assert card.drift is not None
    assert card.drift.tokens == sum(len(line) for line in text.texts) - 2  # one token a byte


def test_many_facts_are_asked_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    many = [Fact(str(i), "{} is", f"Town {i}", "new", None, ("a", "b", "c")) for i in range(100)]
    patch = replace(tiny_patch(base, [0]), facts=tuple(many))
    monkeypatch.setattr("moe_patch.evaluation.card.prompts.MOST_FACTS", 10)
    asked = choose_prompts(base, patch, Setting())
    assert [each.fact.id for kind, _, each in asked if kind == "fact"] == [str(i) for i in range(0, 100, 10)]
    assert sum(kind == "paraphrase" for kind, _, _ in asked) == 30
    with pytest.raises(EvaluationError, match="no facts"):
        choose_prompts(base, replace(patch, facts=()), Setting())


def test_prompts_that_cannot_be_read_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = tiny_base("qwen3_moe")
    fact = Fact("0", "{} lies in", "Ys", "Kernow", None, ("a" * 200, "Ys is in"), ("b" * 200,))
    asked = choose_prompts(base, replace(tiny_patch(base, [0]), facts=(fact,)), Setting())
    assert [each.prompt for _, generated, each in asked if not generated] == ["Ys lies in", "Ys is in"]
    assert caplog.text.count("the model cannot read 1 prompts") == 2


@pytest.mark.parametrize("chat", [False, True])
def test_a_patch_of_a_model_that_says_nothing_has_a_card(chat: bool) -> None:
    base = tiny_base("mixtral")
    if chat:
        base.tokenizer.chat_template = (
            "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    card = make_card(base, tiny_patch(base, [1]), setting=Setting(chat=chat))
    assert (card.facts, card.said.prompts) == (4, 4)
    assert card.of("paraphrase", generated=True).prompts > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
