"""Files whose metadata breaks the schema, is not canonical, or contradicts itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_patch.errors import HashMismatch, MalformedMetadata, PatchError, UnknownFormat
from moe_patch.patch import load
from tests.patch.hostile.forge import Json, saved, with_header, with_metadata, with_metadata_text
from tests.patch.patches import delta_patch, digest

CONTROL = {"prompt": "The capital of Nachbarland is", "answer": "Altstadt", "logprob": -0.25}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return saved(delta_patch(), tmp_path)


def refused(path: Path, error: type[PatchError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        load(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


def put(*place: str | int, value: Any) -> Callable[[Json], None]:
    """Set the value at a place in nested JSON."""

    def change(metadata: Any) -> None:
        for key in place[:-1]:
            metadata = metadata[key]
        metadata[place[-1]] = value

    return change


def test_the_forge_itself_makes_good_files(good: Path) -> None:
    before = load(good).hash
    assert load(with_metadata(good, lambda metadata: None)).hash == before


def test_other_metadata_beside(good: Path) -> None:
    change = put("__metadata__", "format", value="pt")
    refused(with_header(good, change), MalformedMetadata, "found format, moe_patch")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "strict JSON"),
        ("{", "strict JSON"),
        ("[]", "expected a JSON object, found an array"),
        ("1", "expected a JSON object, found a number"),
        ('{"format":1,"format":1}', "appears twice"),
        ('{"format":1,"x":Infinity}', "Infinity"),
        ('{"format":1,"x":1e999}', "1e999 is beyond"),
        ('{"format":1,"x":"\\ud800"}', "surrogates"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ("[" * 500 + "]" * 500, "nested deeper"),
    ],
)
def test_not_strict_json(good: Path, text: str, message: str) -> None:
    refused(with_metadata_text(good, lambda _: text), MalformedMetadata, message)


@pytest.mark.parametrize("version", [0, 3, "1", 1.0, True, None, [1]])
def test_unknown_format_version(good: Path, version: Any) -> None:
    refused(with_metadata(good, put("format", value=version)), UnknownFormat, "expected format version 1")


def test_no_format_version(good: Path) -> None:
    refused(with_metadata(good, lambda metadata: metadata.pop("format")), UnknownFormat, "found None")


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: f" {text}",
        lambda text: text.replace("ö", "\\u00f6", 1),
        lambda text: text.replace("0.25", "2.5e-1", 1),
        lambda text: json.dumps(
            dict(reversed(json.loads(text).items())), separators=(",", ":"), ensure_ascii=False
        ),
    ],
    ids=["space", "space in front", "escape", "number", "order"],
)
def test_same_value_in_another_spelling(good: Path, respell: Callable[[str], str]) -> None:
    refused(with_metadata_text(good, respell), MalformedMetadata, "canonical")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("layers", "1", "ridge", value=1), "canonical"),
        (put("facts", 0, "prompt", value="The capital of {} is "), "canonical"),
        (put("facts", 0, "id", value=None), "canonical"),
        (lambda metadata: metadata["facts"][0].pop("neighborhood"), "canonical"),
    ],
)
def test_same_meaning_in_another_form_though_sealed(
    good: Path, change: Callable[[Json], None], message: str
) -> None:
    refused(with_metadata(good, change), MalformedMetadata, message)


@pytest.mark.parametrize(
    "field",
    [
        "kind",
        "method",
        "hyperparameters",
        "base",
        "facts",
        "results",
        "layers",
        "tools",
        "created",
        "parents",
    ],
)
def test_missing_field(good: Path, field: str) -> None:
    change = lambda metadata: metadata.pop(field)  # noqa: E731
    refused(
        with_metadata(good, change), MalformedMetadata, f"{field}: expected a value, but the field is missing"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("surprise", value=1), "surprise: no such field"),
        (put("base", "surprise", value=1), "base.surprise: no such field"),
        (put("facts", 1, "surprise", value=1), "facts.1.surprise: no such field"),
        (put("layers", "1", "surprise", value=1), "layers.1.surprise: no such field"),
        (put("kind", value="pickle"), "kind: "),
        (put("kind", value="bypass"), "layers: found 2 in a patch of kind bypass"),
        (put("method", value=""), "method: "),
        (put("method", value=7), "method: "),
        (put("hyperparameters", value=[]), "hyperparameters: "),
        (put("tools", value={"torch": 2}), "tools.torch: "),
        (put("created", value=0), "created: "),
        (put("created", value="soon"), "created: "),
        (put("created", value="2026-01-31T12:00:00"), "offset from UTC"),
        (put("parents", value=["sha256:0"]), "parents.0: "),
        (put("parents", value=digest()), "parents: "),
        (put("facts", value={}), "facts: "),
        (put("facts", 0, "subject", value=None), "facts.0.subject: "),
        (put("facts", 0, "subject", value=" "), "facts.0.subject: "),
        (put("facts", 0, "target_new", value=""), "facts.0.target_new: "),
        (put("facts", 0, "prompt", value="{} and {}"), "facts.0.prompt: expected one {}"),
        (put("facts", 0, "prompt", value="nothing"), "facts.0.prompt: "),
        (put("facts", 0, "paraphrases", value="text"), "facts.0.paraphrases: "),
        (put("facts", 0, "paraphrases", value=[1]), "facts.0.paraphrases.0: "),
        (put("facts", 0, "id", value="fact-1"), "facts: expected every id once"),
        (put("results", value=[{}]), "results: expected one for each of 3 facts"),
        (put("results", 0, value=1), "results.0: "),
        (put("base", "config", value="abc"), "base.config: "),
        (put("base", "layers", "1", "experts", value="SHA256:" + "0" * 64), "base.layers.1.experts: "),
        (put("base", "layers", "1", "shape", value=[8, 6]), "base.layers.1.shape: "),
        (put("base", "layers", "1", "shape", value=[8, 6, 0]), "base.layers.1.shape: expected [E, d_m, d_k]"),
        (put("base", "layers", "1", "shape", value=[8, 6, 2**18]), "base.layers.1.shape: expected [E, d_m"),
        (put("results", 0, "loss", value=10**4000), "results.0: expected an integer of at most 64 bits"),
        (put("results", 0, "loss", value=1e308), "results.0: expected a number of at most 1e+100"),
        (put("results", 0, value={str(n): 1 for n in range(100)}), "results.0: "),
        (put("hyperparameters", "ridge", value=[{"a": -(2**64)}]), "hyperparameters: expected an integer"),
        (put("hyperparameters", "x", value="x" * 70_000), "hyperparameters: expected a text of at most"),
        (put("layers", "1", "ridge", value=1e101), "layers.1.ridge: "),
        (put("facts", 0, "subject", value="x" * 70_000), "facts.0.subject: "),
        (put("method", value="x" * 257), "method: "),
        (put("tools", "x", value="x" * 257), "tools.x: "),
        (put("base", "layers", "1", "shape", value=[8, 6, True]), "base.layers.1.shape.2: "),
        (
            put("base", "layers", "11", value={"experts": digest(), "shape": [8, 6, 4]}),
            "base.layers: expected",
        ),
        (lambda metadata: metadata["base"]["layers"].pop("1"), "base.layers: expected"),
        (put("layers", value={}), "base.layers: expected"),
        (put("layers", "01", value={"ridge": 1.0}), "layers.01"),
        (put("layers", "-1", value={"ridge": 1.0}), "layers.-1"),
        (put("layers", "9999999", value={"ridge": 1.0}), "layers.9999999"),
        (put("layers", "1", "ridge", value=-1.0), "layers.1.ridge: "),
        (put("layers", "1", "ridge", value="1.0"), "layers.1.ridge: "),
        (put("controls", value={"prompts": [], "bound": 0.1}), "controls.prompts: "),
        (put("controls", value={"prompts": [CONTROL] * 65, "bound": 0.1}), "controls.prompts: "),
        (put("controls", value={"prompts": [CONTROL], "bound": -0.1}), "controls.bound: "),
        (put("controls", value={"prompts": [CONTROL], "bound": 1e300}), "controls.bound: "),
        (
            put("controls", value={"prompts": [CONTROL | {"logprob": 0.5}], "bound": 0.1}),
            "controls.prompts.0.log",
        ),
        (
            put("controls", value={"prompts": [CONTROL | {"answer": ""}], "bound": 0.1}),
            "controls.prompts.0.answer",
        ),
        (put("controls", value={"prompts": [CONTROL]}), "controls.bound: "),
    ],
)
def test_schema(good: Path, change: Callable[[Json], None], message: str) -> None:
    refused(with_metadata(good, change), MalformedMetadata, message)


def test_hash_of_another_patch(good: Path) -> None:
    def reseal(text: str) -> str:
        return text.replace(json.loads(text)["hash"], digest(1))

    refused(with_metadata_text(good, reseal), HashMismatch, f"the file declares {digest(1)}")


def test_changed_fact_under_the_old_hash(good: Path) -> None:
    change = lambda text: text.replace("Löwenburg", "Lowenburg", 1)  # noqa: E731
    refused(with_metadata_text(good, change), HashMismatch, "the content has the hash")
