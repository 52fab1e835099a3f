from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_patch.data.fact_file import FactFile, Skipped, read_facts
from moe_patch.data.facts import Fact, as_continuation
from moe_patch.errors import FactError
from tests.data.records import COUNTERFACT, NATIVE, ZSRE, native, rewrite


class TestSchemas:
    def test_native(self, read: Callable[..., FactFile]) -> None:
        more = {
            "id": "fr",
            "target_true": "Paris",
            "paraphrases": ["France is ruled from"],
            "neighborhood": ["x"],
        }
        file = read(NATIVE | more)
        assert file == FactFile(
            facts=(
                Fact(
                    id="fr",
                    prompt="The capital of {} is",
                    subject="France",
                    target_new="Lyon",
                    target_true="Paris",
                    paraphrases=("France is ruled from",),
                    neighborhood=("x",),
                ),
            ),
            skipped=(),
            schema="native",
        )
        assert file.facts[0].text == "The capital of France is"

    def test_counterfact(self, read: Callable[..., FactFile]) -> None:
        file = read(COUNTERFACT)
        assert file.schema == "counterfact"
        assert file.facts == (
            Fact(
                id="18",
                prompt="{}, created by",
                subject="Porsche 911",
                target_new="Honda",
                target_true="Porsche",
                paraphrases=("Porsche 911 is developed by",),
                neighborhood=("Porsche 550, developed by",),
            ),
        )

    def test_zsre(self, read: Callable[..., FactFile]) -> None:
        file = read(ZSRE)
        assert file.schema == "zsre-alt"
        (fact,) = file.facts
        assert fact.prompt == "Which family does {} belong to?"
        assert fact.text == ZSRE["src"]
        assert (fact.target_new, fact.target_true) == ("Lamiinae", "Lecanorales")
        assert fact.paraphrases == ("What family are Ramalinaceae?",)
        assert fact.neighborhood == ("nq question: types of skiing in the winter olympics 2018",)
        assert fact.neighborhood_answers == ("Downhill",)

    def test_one_file_holds_one_schema(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(FactError, match=r":2: expected a native record.*found a zsre-alt record"):
            read(NATIVE, ZSRE)


class TestNormalForm:
    def test_targets_lose_the_space_around_them_and_prompts_the_space_behind(
        self, read: Callable[..., FactFile]
    ) -> None:
        (fact,) = read(
            native(prompt="The capital of {} is ", target_new=" Lyon", target_true=" Paris ")
        ).facts
        assert (fact.prompt, fact.target_new, fact.target_true) == ("The capital of {} is", "Lyon", "Paris")
        assert fact.text + as_continuation(fact.target_new) == "The capital of France is Lyon"

    def test_a_prompt_may_spell_the_subject_out(self, read: Callable[..., FactFile]) -> None:
        assert read(native(prompt="The capital of France is")).facts[0].prompt == "The capital of {} is"

    def test_what_is_kept_may_spell_the_subject_out(self, read: Callable[..., FactFile]) -> None:
        (fact,) = read(native(keep=["{} speaks ", "One eats well in France,"])).facts
        assert fact.keep == ("{} speaks", "One eats well in {},")
        assert fact.kept == ("France speaks", "One eats well in France,")

    def test_braces_elsewhere_are_text(self) -> None:
        fact = Fact("a", "{x} {} {{", "{y}", "z")
        assert fact.text == "{x} {y} {{"

    def test_ids_that_are_not_given_come_from_the_content(self, read: Callable[..., FactFile]) -> None:
        other = native(subject="Spain")
        first, second = read(NATIVE, other).facts
        assert (second, first) == read(other, NATIVE).facts
        assert first.id != second.id

    def test_blank_lines_and_a_byte_order_mark_mean_nothing(self, read: Callable[..., FactFile]) -> None:
        file = read(b"\xef\xbb\xbf" + json.dumps(NATIVE).encode(), "", " \t\r", native(subject="Spain"), "")
        assert [fact.subject for fact in file.facts] == ["France", "Spain"]
        assert file.skipped == ()

    def test_a_line_separator_inside_a_string_does_not_end_the_line(
        self, read: Callable[..., FactFile]
    ) -> None:
        text = json.dumps(native(target_new="a\u2028b\x85c"), ensure_ascii=False)
        assert read(text).facts[0].target_new == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", "expected one JSON object: Expecting", id="broken JSON"),
        pytest.param("3", "expected one JSON object, found a number", id="number"),
        pytest.param('{"prompt": "{} is", "prompt": "{}"}', "'prompt' appears twice", id="repeated key"),
        pytest.param('{"prompt": NaN}', "NaN", id="NaN"),
        pytest.param('{"prompt": ' + "[" * 10**5, "nested deeper", id="nesting"),
        pytest.param(b'{"prompt": "caf\xe9 {}"}', "expected UTF-8, found byte 0xe9 at 15", id="Latin-1"),
        pytest.param(
            {"prompt": "{} is"}, "subject: expected a value, but the field is missing", id="missing"
        ),
        pytest.param({}, "prompt: expected a value, but the field is missing", id="empty object"),
        pytest.param(
            native(target_new=1), "target_new: input should be a valid string, found 1", id="number field"
        ),
        pytest.param(
            native(paraphrases="x"), "paraphrases: input should be a valid list", id="text for a list"
        ),
        pytest.param(
            native(paraphrases=["x", 1]), "paraphrases.1: input should be a valid string", id="in a list"
        ),
        pytest.param(
            native(paraphrase=["x"]), "paraphrase: no such field; the fields of a fact are id", id="unknown"
        ),
        pytest.param(
            native(target_new=""), "target_new: expected a text that is not empty, found ''", id="no target"
        ),
        pytest.param(
            native(target_new=" \n"), "target_new: expected a text that is not empty", id="blank target"
        ),
        pytest.param(
            native(target_true=""), "target_true: expected a text that is not empty", id="no true target"
        ),
        pytest.param(native(subject=""), "subject: expected a text that is not empty", id="no subject"),
        pytest.param(
            native(prompt=""), "prompt: expected one {} or the subject 'France' once", id="no prompt"
        ),
        pytest.param(
            native(prompt="The capital is"), "but the subject is not in it", id="subject not in prompt"
        ),
        pytest.param(
            native(prompt="France or France"), "but the subject is in it 2 times", id="subject twice"
        ),
        pytest.param(
            native(prompt="{} and {}"), "prompt: expected one {} where the subject goes, found 2", id="two {}"
        ),
        pytest.param(
            native(paraphrases=[""]), "paraphrases.0: expected a text that is not empty", id="no paraphrase"
        ),
        pytest.param(
            native(paraphrases=["a", "{} is"]), "paraphrases.1: expected a complete prompt", id="{} left"
        ),
        pytest.param(
            native(neighborhood=["{} is"]), "neighborhood.0: expected a complete prompt", id="{} around"
        ),
        pytest.param(native(keep=["of it"]), "keep.0: expected one {} or the subject", id="keep: no subject"),
        pytest.param(native(keep=["{}", "{} {}"]), "keep.1: expected one {}", id="keep: two {}"),
        pytest.param(
            native(keep=["The capital of France is"]),
            "keep.0: 'The capital of France is' is a prompt to keep",
            id="keep: it",
        ),
        pytest.param(native(id=" "), "id: expected a text that is not empty", id="blank id"),
        pytest.param({"requested_rewrite": 1}, "case_id: expected a value", id="counterfact: no case"),
        pytest.param(COUNTERFACT | {"requested_rewrite": 1}, "requested_rewrite: ", id="counterfact: type"),
        pytest.param(
            rewrite(target_new={}), "requested_rewrite.target_new.str: expected", id="counterfact: target"
        ),
        pytest.param(
            rewrite(target_new={"str": ""}),
            "requested_rewrite.target_new.str: expected a text",
            id="counterfact: empty",
        ),
        pytest.param(
            rewrite(prompt="by"), "requested_rewrite.prompt: expected one {}", id="counterfact: prompt"
        ),
        pytest.param(
            COUNTERFACT | {"paraphrase_prompts": [" "]},
            "paraphrase_prompts.0: expected",
            id="counterfact: paraphrase",
        ),
        pytest.param({"src": "x"}, "subject: expected a value", id="zsre: no subject"),
        pytest.param(ZSRE | {"alt": ""}, "alt: expected a text that is not empty", id="zsre: empty"),
        pytest.param(ZSRE | {"src": "Which?"}, "src: expected the subject 'Ramalinaceae' in", id="zsre: src"),
        pytest.param(ZSRE | {"answers": [""]}, "answers.0: expected a text", id="zsre: answer"),
        pytest.param(ZSRE | {"rephrase": ""}, "rephrase.0: expected a text", id="zsre: rephrase"),
        pytest.param(ZSRE | {"loc": " "}, "loc.0: expected a text", id="zsre: loc"),
    ],
)
def test_a_bad_line_names_its_place_and_what_was_expected(
    read: Callable[..., FactFile], tmp_path: Path, line: Any, message: str
) -> None:
    with pytest.raises(FactError) as caught:
        read("", line)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'facts.jsonl'}:2: ")
    assert message in text
    assert "\n" not in text


class TestAcrossLines:
    def test_duplicates(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(
            FactError, match=r"facts.jsonl:3: prompt: 'The capital of France is' repeats line 1"
        ):
            read(NATIVE, native(subject="Spain"), NATIVE | {"id": "other"})

    def test_duplicates_in_another_spelling(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(FactError, match="repeats line 1"):
            read(NATIVE, native(prompt="The capital of France is ", target_new=" Lyon"))

    def test_contradictions(self, read: Callable[..., FactFile]) -> None:
        message = (
            r":2: target_new: 'Nice' after 'The capital of France is' contradicts line 1, which says 'Lyon'"
        )
        with pytest.raises(FactError, match=message):
            read(NATIVE, native(target_new="Nice"))

    @pytest.mark.parametrize(
        "spelling",
        [
            {"subject": "Co\u0302te", "prompt": "The capital of {} is"},
            {"subject": " C\u00f4te ", "prompt": "The capital  of {} is\u00a0"},
            {"subject": "Co\u0302te", "prompt": "The capital of C\u00f4te is "},
        ],
    )
    def test_two_spellings_of_a_prompt_are_one(
        self, read: Callable[..., FactFile], spelling: dict[str, str]
    ) -> None:
        composed = native(subject="C\u00f4te")
        with pytest.raises(FactError, match=r":2: target_new: 'Nice' after .* contradicts line 1"):
            read(composed, native(target_new="Nice", **spelling))
        with pytest.raises(FactError, match=r":2: prompt: .* repeats line 1"):
            read(composed, native(**spelling))
        with pytest.raises(FactError, match=r":2: prompt: line 1 asks to keep the answer"):
            read(
                native(subject="C\u00f4te", prompt="{} is", keep=["The capital of {} is"]), native(**spelling)
            )

    @pytest.mark.parametrize("first", [0, 1])
    def test_what_is_kept_is_not_changed(self, read: Callable[..., FactFile], first: int) -> None:
        keeping = native(keep=["The head of {} is"])
        changing = native(prompt="The head of {} is", target_new="Ann")
        wanted = [
            "prompt: line 1 asks to keep the answer of 'The head of France is'",
            "keep.0: .* but line 1 changes it",
        ]
        with pytest.raises(FactError, match=rf":2: {wanted[first]}"):
            read(*([keeping, changing] if first == 0 else [changing, keeping]))

    def test_the_same_subject_under_another_prompt_is_another_fact(
        self, read: Callable[..., FactFile]
    ) -> None:
        assert len(read(NATIVE, native(prompt="{} lies in", target_new="Asia")).facts) == 2

    def test_ids(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(FactError, match=r":2: id: 'a' is already the id of line 1"):
            read(native(id="a"), native(id="a", subject="Spain"))

    def test_fields_are_named_as_the_file_names_them(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(FactError, match=r":2: alt: 'x' after .* contradicts line 1"):
            read(ZSRE, ZSRE | {"alt": "x"})
        with pytest.raises(FactError, match=r":2: case_id: '18' is already the id of line 1"):
            read(COUNTERFACT, rewrite(subject="Porsche 912"))


class TestTokenize:
    @staticmethod
    def tokenize(text: str) -> list[int]:
        return [ord(letter) for letter in text if letter.isascii() and letter != " "]

    @pytest.mark.parametrize(
        ("new", "true"), [("Köln", "Ko\u0308ln"), ("New  York", " New York "), ("Ys", "Ys")]
    )
    def test_a_new_answer_that_is_the_true_one(
        self, read: Callable[..., FactFile], new: str, true: str
    ) -> None:
        same = native(target_new=new, target_true=true)
        with pytest.raises(FactError, match=r"facts.jsonl:1: target_new: .* is target_true as well"):
            read(same)
        kept = read(same, native(prompt="{} lies in", target_true="paris"), skip_invalid=True)
        assert [skipped.line for skipped in kept.skipped] == [1]

    def test_targets_that_tokenise_to_nothing(self, read: Callable[..., FactFile]) -> None:
        with pytest.raises(
            FactError, match=r":1: target_new: expected at least one token, but 'é' tokenises"
        ):
            read(native(target_new="é"), tokenize=self.tokenize)
        with pytest.raises(FactError, match=r":1: target_true: expected at least one token"):
            read(native(target_true="é"), tokenize=self.tokenize)
        assert read(native(target_new="é")).facts[0].target_new == "é"

    def test_targets_are_tokenised_as_they_follow_a_prompt(self, read: Callable[..., FactFile]) -> None:
        seen: list[str] = []

        def tokenize(text: str) -> list[int]:
            seen.append(text)
            return [1]

        read(native(target_true="Paris"), tokenize=tokenize)
        assert seen == [" Lyon", " Paris"]


class TestSkipInvalid:
    def test_what_is_skipped_is_listed(self, read: Callable[..., FactFile]) -> None:
        lines = ("{", NATIVE, b"\xff", native(target_new="Nice"), ZSRE, native(subject="Spain"))
        file = read(*lines, skip_invalid=True)
        assert [fact.subject for fact in file.facts] == ["France", "Spain"]
        assert file.schema == "native"
        assert [skipped.line for skipped in file.skipped] == [1, 3, 4, 5]
        assert file.skipped[2] == Skipped(
            4,
            "target_new: 'Nice' after 'The capital of France is' contradicts line 2, which says 'Lyon'; "
            "keep one of the two",
        )

    def test_a_skipped_line_is_no_precedent(self, read: Callable[..., FactFile]) -> None:
        """A line that is refused neither fixes the schema nor counts as the first of two duplicates."""
        file = read(ZSRE | {"alt": ""}, native(id="a", paraphrases=[""]), native(id="a"), skip_invalid=True)
        assert [fact.id for fact in file.facts] == ["a"]

    @pytest.mark.parametrize("lines", [(), ("", " "), ("{", "{")])
    def test_nothing_left_is_an_error(self, read: Callable[..., FactFile], lines: tuple[str, ...]) -> None:
        with pytest.raises(FactError, match="expected at least one fact, found none"):
            read(*lines, skip_invalid=True)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"nothing\.jsonl: cannot be read: No such file"):
        read_facts(tmp_path / "nothing.jsonl")
