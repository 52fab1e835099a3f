from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from packaging.version import Version
from safetensors import safe_open

from moe_patch import patch as patch_module
from moe_patch.data.facts import Fact
from moe_patch.errors import (
    MalformedMetadata,
    MalformedTensor,
    NotFinite,
    OutputError,
    PatchError,
    SolveError,
    WrongBase,
)
from moe_patch.io.ranges import LARGEST_NUMBER
from moe_patch.patch import Patch, check_base, check_touched, load, save
from moe_patch.patch.controls import Control, Controls
from moe_patch.patch.schema import FactSchema
from tests.patch.patches import (
    D_KEY,
    D_MODEL,
    bypass_patch,
    delta_patch,
    digest,
    fingerprint,
    layer_delta,
    with_left_per_row,
)

FORMAT_1 = Path(__file__).parent / "data" / "format-1.safetensors"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(first: Patch, second: Patch) -> None:
    assert first.hash == second.hash
    assert first.body() == second.body()
    ours, theirs = first.tensors(), second.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
words = st.text(min_size=1).map(str.strip).filter(lambda text: text != "" and "{}" not in text)


@st.composite
def facts(draw: st.DrawFn, count: int) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            id=f"{number} {draw(words)}",
            prompt=f"{draw(words)} {{}} {draw(words)}",
            subject=draw(words),
            target_new=draw(words),
            target_true=draw(st.none() | words),
            paraphrases=tuple(draw(st.lists(words, max_size=2))),
            neighborhood=tuple(draw(st.lists(words, max_size=2))),
        )
        for number in range(count)
    )


controls = st.builds(
    Controls,
    st.lists(st.builds(Control, words, words, st.floats(-1e3, 0)), min_size=1, max_size=3).map(tuple),
    st.floats(0, 1e3),
)


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    count = draw(st.integers(0, 4))
    random = generator(draw(st.integers(0, 1000)))
    layers = {}
    for layer in draw(st.lists(st.integers(0, 200), min_size=1, max_size=3, unique=True)):
        delta = layer_delta(count, random, hits=draw(st.sampled_from([0.0, 0.4, 1.0])))
        form = draw(st.sampled_from(["shared left", "left per row", "not solvable again"]))
        if form == "left per row":
            delta = with_left_per_row(delta, random)
        if form == "not solvable again":
            delta = replace(delta, residual=None)
        layers[layer] = replace(delta, ridge=draw(st.floats(0, 1e6)))
    return delta_patch(
        base=fingerprint(*layers),
        facts=draw(facts(count)),
        results=draw(st.just(()) | st.tuples(*[st.dictionaries(st.text(), json_values, max_size=2)] * count)),
        layers=layers,
        hyperparameters=draw(st.dictionaries(st.text(), json_values, max_size=3)),
        parents=tuple(digest(number) for number in draw(st.lists(st.integers(0, 99), max_size=2))),
        schema=draw(st.sampled_from(get_args(FactSchema))),
        controls=draw(st.none() | controls),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patch=patches())
def test_what_is_saved_is_what_is_loaded(patch: Patch, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save(patch, first)
    loaded = load(first)
    assert_same(patch, loaded)
    assert loaded.facts == patch.facts
    assert loaded.base == patch.base
    assert loaded.schema == patch.schema
    assert loaded.controls == patch.controls
    save(loaded, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_file_of_format_1_is_read_and_written_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patch = load(FORMAT_1)
    assert (patch.base.format, patch.schema) == (1, "native")
    save(patch, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == FORMAT_1.read_bytes()
    check_base(patch, patch.base)
    assert "of format 1" in caplog.text
    with pytest.raises(WrongBase, match="cannot be compared"):
        check_base(patch, fingerprint(1))


def test_a_bypass_keeps_its_tensors_verbatim(tmp_path: Path) -> None:
    patch = bypass_patch()
    save(patch, tmp_path / "p.safetensors")
    loaded = load(tmp_path / "p.safetensors")
    assert_same(patch, loaded)
    assert loaded.bypass["3.router.bias"].dtype == torch.bfloat16
    assert loaded.bypass["3.router.bias"].shape == ()


def test_names_and_dtypes_are_those_of_the_specification(tmp_path: Path) -> None:
    random = generator()
    delta = with_left_per_row(layer_delta(3, random), random)
    save(delta_patch(edited=(4,), layers={4: delta}), tmp_path / "p.safetensors")
    nnz = len(delta.rows.value)
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        found = {
            name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a mapping)
        }
        assert list(file.metadata()) == ["moe_patch"]
    assert found == {
        "delta.4.left": ("F32", [nnz, D_MODEL]),
        "delta.4.right": ("F32", [nnz, D_KEY]),
        "delta.4.expert": ("I32", [nnz]),
        "delta.4.fact": ("I32", [nnz]),
        "solve.4.residual": ("F32", [3, D_MODEL]),
        "solve.4.key": ("F32", [nnz, D_KEY]),
        "solve.4.expert": ("I32", [nnz]),
        "solve.4.fact": ("I32", [nnz]),
    }


def test_a_layer_knows_the_rows_of_its_facts() -> None:
    shared = layer_delta(3, generator())
    per_row = with_left_per_row(shared, generator())
    for rows in (shared.fact_rows, per_row.fact_rows):
        assert torch.equal(rows.value, shared.rows.value)
        assert torch.equal(rows.fact, shared.rows.fact)
        assert rows.num_facts == 3
    assert shared.shares_rows
    assert not per_row.shares_rows
    assert shared.experts() == per_row.experts() == sorted(set(shared.rows.expert.tolist()))


def test_rows_must_be_numbered_by_the_left_factors() -> None:
    delta = layer_delta(3, generator())
    with pytest.raises(SolveError, match="6 left factors needs rows that count as many"):
        replace(delta, left=torch.cat([delta.left, delta.left]))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "mote"},
        {"created": "2026-01-31T12:00:01+00:00"},
        {"parents": ()},
        {"hyperparameters": {"ridge": 1e-4}},
        {"facts": delta_patch().facts[::-1]},
        {"base": replace(fingerprint(1, 10), config=digest(9))},
        {"layers": delta_patch(seed=1).layers},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_covers_everything(change: dict[str, Any]) -> None:
    assert delta_patch().hash == delta_patch().hash
    assert delta_patch(**change).hash != delta_patch().hash


def test_the_hash_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patch, digests = delta_patch(), iter("ab")
    monkeypatch.setattr("moe_patch.patch.patch.content_hash", lambda *_: next(digests))
    assert [patch.hash, patch.hash] == ["a", "a"]


def test_a_changed_patch_does_not_carry_the_hash_of_the_one_before() -> None:
    patch = delta_patch()
    before = patch.hash
    changed = replace(patch, method="mote")
    assert changed.hash == delta_patch(method="mote").hash
    assert changed.hash != before == patch.hash
    assert copy.copy(patch).hash == before


def test_the_hash_tells_a_tensors_name_shape_and_dtype() -> None:
    values = torch.zeros(6)
    hashes = {
        replace(bypass_patch(), created="2026-01-31T12:00:00+00:00", bypass=tensors).hash
        for tensors in (
            {"a": values},
            {"b": values},
            {"a": values.reshape(2, 3)},
            {"a": values.int()},
        )
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("patch", [delta_patch(), bypass_patch()], ids=["delta", "bypass"])
def test_the_hash_is_the_one_that_the_specification_describes(patch: Patch, tmp_path: Path) -> None:
    """The hash, computed from the bytes of the file as docs/format.md says, without the library."""
    save(patch, tmp_path / "p.safetensors")
    raw = (tmp_path / "p.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata = json.loads(header.pop("__metadata__")["moe_patch"])
    declared = metadata.pop("hash")
    for entry in header.values():
        begin, end = entry.pop("data_offsets")
        entry["sha256"] = hashlib.sha256(raw[start + begin : start + end]).hexdigest()
    document = {"metadata": metadata, "tensors": header}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert declared == patch.hash == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def unstamped() -> Patch:
    """A patch that leaves tools and time to their defaults."""
    return Patch("delta", "moeedit", {}, fingerprint(1), (), (), {1: layer_delta(0, generator())})


def test_created_follows_the_source_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert unstamped().created == "1970-01-01T00:00:00+00:00"
    assert unstamped().hash == unstamped().hash


def test_tool_versions_are_recorded() -> None:
    assert Version(unstamped().tools["torch"]).public == Version(torch.__version__).public
    assert {"moe-patch", "python", "transformers"} < unstamped().tools.keys()


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    delta = layer_delta(3, generator())
    shared = replace(delta, residual=delta.left)
    save(delta_patch(edited=(1,), layers={1: shared}), tmp_path / "p.safetensors")
    residual = load(tmp_path / "p.safetensors").layers[1].residual
    assert residual is not None
    assert torch.equal(residual, delta.left)


class TestWhatIsNotWritten:
    """The writer refuses what the reader would refuse, and leaves no file behind."""

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"results": ({"loss": float("nan")},) * 3}, MalformedMetadata, "JSON"),
            ({"results": ({},)}, MalformedMetadata, "one for each of 3 facts"),
            ({"hyperparameters": {"x": {1, 2}}}, MalformedMetadata, "JSON"),
            ({"created": "yesterday"}, MalformedMetadata, "created"),
            ({"created": "2026-01-31T12:00:00"}, MalformedMetadata, "offset from UTC"),
            ({"parents": ("abc",)}, MalformedMetadata, "parents.0"),
            ({"facts": (delta_patch().facts[0],) * 3}, MalformedMetadata, "every id once"),
            ({"base": replace(fingerprint(1, 10), shapes={})}, PatchError, "no shape"),
            ({"base": fingerprint(1, 10, 11)}, MalformedMetadata, "base.layers"),
            ({"layers": {}}, MalformedMetadata, "base.layers"),
            ({"bypass": {"x": torch.zeros(1)}}, MalformedTensor, "bypass.x"),
        ],
    )
    def test_metadata(
        self, changes: dict[str, Any], error: type[PatchError], message: str, tmp_path: Path
    ) -> None:
        self.refused(delta_patch(**changes), error, message, tmp_path)

    @pytest.mark.parametrize(
        ("field", "change", "error", "message"),
        [
            ("left", lambda t: t.double(), MalformedTensor, "delta.1.left: expected F32"),
            (
                "rows.value",
                lambda t: t[:, :-1],
                MalformedTensor,
                "delta.1.right: expected F32 of shape (any, 4)",
            ),
            ("rows.value", lambda t: t.double(), MalformedTensor, "delta.1.right: expected F32"),
            ("rows.expert", lambda t: t + 7, MalformedTensor, "delta.1.expert: expected numbers from 0 to 7"),
            (
                "fact_rows.expert",
                lambda t: t + 7,
                MalformedTensor,
                "solve.1.expert: expected numbers from 0 to 7",
            ),
            ("residual", lambda t: t[:-1], MalformedTensor, "solve.1.residual"),
            ("residual", lambda t: t / 0, NotFinite, "solve.1.residual"),
            ("left", lambda t: t.to(torch.complex64), MalformedTensor, "delta.1.left: expected a dtype"),
        ],
    )
    def test_tensors(
        self, field: str, change: Any, error: type[PatchError], message: str, tmp_path: Path
    ) -> None:
        delta = layer_delta(3, generator(), hits=1.0)
        name, _, part = field.partition(".")
        value = getattr(delta, name)
        changed = replace(value, **{part: change(getattr(value, part))}) if part else change(value)
        broken = replace(delta, **{name: changed})
        self.refused(delta_patch(edited=(1,), layers={1: broken}), error, message, tmp_path)

    def test_a_delta_to_be_solved_again_without_the_facts_own_rows(self, tmp_path: Path) -> None:
        delta = with_left_per_row(layer_delta(3, generator(), hits=1.0), generator())
        broken = replace(delta, fact_rows=delta.rows)
        patch = delta_patch(edited=(1,), layers={1: broken})
        self.refused(patch, MalformedTensor, "solve.1.key", tmp_path)

    def test_an_empty_bypass(self, tmp_path: Path) -> None:
        self.refused(replace(bypass_patch(), bypass={}), MalformedTensor, "bypass", tmp_path)

    @staticmethod
    def refused(patch: Patch, error: type[PatchError], message: str, folder: Path) -> None:
        with pytest.raises(error, match=re.escape(message)) as caught:
            save(patch, folder / "p.safetensors")
        assert type(caught.value) is error
        assert str(folder / "p.safetensors") in str(caught.value)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("patch", [delta_patch(), bypass_patch()], ids=["delta", "bypass"])
@pytest.mark.parametrize("fate", ["rewritten", "truncated", "deleted"])
def test_nothing_that_happens_to_the_file_changes_what_was_loaded(
    patch: Patch, fate: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    save(patch, path)
    loaded = load(path)
    if fate == "rewritten":
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
    elif fate == "truncated":
        os.truncate(path, 0)
    else:
        path.unlink()
    assert patch_module.content_hash(loaded.body(), loaded.tensors()) == patch.hash


def test_an_older_file_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.safetensors"
    save(delta_patch(), path)
    before = path.read_bytes()

    def interrupted(_: Any, target: Path, **__: Any) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(patch_module.file, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(delta_patch(seed=1), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save(delta_patch(), tmp_path / "nowhere" / "p.safetensors")


class TestCheckBase:
    def test_the_base_it_was_built_for(self) -> None:
        check_base(delta_patch(), fingerprint(1, 10))
        check_base(delta_patch(), fingerprint(1, 5, 10))  # more layers than it edits

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (replace(fingerprint(1, 10), model_type="mixtral"), "architecture is mixtral, not qwen3_moe"),
            (replace(fingerprint(1, 10), index=digest(9)), "other numbers or sizes"),
            (replace(fingerprint(1, 10), config=digest(9)), "config differs"),
            (
                replace(fingerprint(1, 10), experts={1: digest(101), 10: digest()}),
                "weights of layer 10 differ",
            ),
            (replace(fingerprint(1, 10), experts={}), "weights of layers 1, 10 differ"),
            (replace(fingerprint(1, 10), shapes={1: (8, 4, 6)}), "weights of layer 1 differ"),
        ],
        ids=["architecture", "index", "config", "one layer", "all layers", "a shape"],
    )
    def test_another(self, found: patch_module.Fingerprint, message: str) -> None:
        with pytest.raises(WrongBase, match=message):
            check_base(delta_patch(), found)

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ({"embeddings": digest()}, "its embeddings differ"),
            ({"head": digest()}, "its last norm or its head differs"),
            ({"3": digest(), "4": digest(), "10": digest()}, "or other weights of layers 3-4, 10 differ"),
            ({"12": digest()}, "or other weights of layer 12 differ"),
        ],
    )
    def test_another_part_of_the_model(self, nodes: dict[str, str], message: str) -> None:
        known = fingerprint(1, 10)
        with pytest.raises(WrongBase, match=message):
            check_base(delta_patch(), replace(known, nodes=known.nodes | nodes))
        check_touched(delta_patch(), replace(known, nodes={}))

    def test_towers_count_if_both_have_some(self) -> None:
        known, text = fingerprint(1, 10), delta_patch()
        seeing = replace(known, nodes=known.nodes | {"towers": digest(5)})
        other = replace(known, nodes=known.nodes | {"towers": digest(6)})
        check_base(text, seeing)
        check_base(replace(text, base=seeing), known)
        assert seeing.root == known.root
        with pytest.raises(WrongBase, match="towers"):
            check_base(replace(text, base=seeing), other)

    def test_other_tokens_are_named_and_another_template_is_refused(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        known = fingerprint(1, 10)
        other = replace(known, tokens=known.tokens | {"added": digest(), "template": digest()})
        check_base(delta_patch(), other)
        assert "differs in: added tokens, chat template" in caplog.text
        with pytest.raises(WrongBase, match="chat template differs"):
            check_base(delta_patch(hyperparameters={"chat": True}), other)

    def test_all_differences_are_named(self) -> None:
        found = replace(fingerprint(1, 10), model_type="mixtral", config=digest(9), experts={})
        with pytest.raises(WrongBase, match=r"mixtral.*config differs.*layers 1, 10"):
            check_base(delta_patch(), found)
