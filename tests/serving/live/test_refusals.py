"""What a running server refuses, in a shape that programs can read, and that it is then as it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.patch import load, save
from moe_patch.patch.rows import select_rows
from tests.serving.live.conftest import Patches, scaled, tampered
from tests.serving.live.server import TOKEN, Running, refused
from tests.tiny import tiny_base, tiny_patch


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer x"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_the_token_nothing_is_told_or_done(
    server: Running, patches: Patches, headers: dict[str, Any]
) -> None:
    calls = [
        ("GET", "stack"),
        ("POST", "patches"),
        ("DELETE", "patches/one"),
        ("POST", "reorder"),
        ("POST", "rollback"),
    ]
    for method, path in calls:
        answer = server.call(method, path, headers=headers)
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert server.on() == []


def test_a_place_that_is_not_allowed(server: Running, patches: Patches, tmp_path: Path) -> None:
    outside = Path(shutil.copy(patches.one, tmp_path / "one.safetensors"))
    refused(server.add(outside), 403, "place_not_allowed")
    refused(server.add(patches.folder / ".." / outside.relative_to("/")), 403, "place_not_allowed")
    (patches.folder / "link.safetensors").symlink_to(outside)
    refused(server.add(patches.folder / "link.safetensors"), 403, "place_not_allowed")
    refused(server.add(Path("one.safetensors")), 403, "place_not_allowed")
    refused(server.call("POST", "patches", json={"path": "hf://org/name"}), 403, "place_not_allowed")
    refused(server.add(patches.folder / "nothing.safetensors"), 404, "no_such_patch")


def test_a_file_that_was_tampered_with(server: Running, patches: Patches) -> None:
    path = patches.folder / "tampered.safetensors"
    path.write_bytes(tampered(patches.one))
    error = refused(server.add(path), 422, "patch_refused")
    assert error["details"]["reason"] == "HashMismatch"
    path.write_bytes(patches.one.read_bytes()[:1000])
    assert refused(server.add(path), 422, "patch_refused")["details"]["reason"] == "TruncatedPatch"


def test_a_patch_for_another_base(server: Running, patches: Patches) -> None:
    other = patches.folder / "other.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe"), [1]), other)
    before = server.call("GET", "stack").json()
    error = refused(server.add(other), 422, "patch_refused")
    assert error["details"]["reason"] == "WrongBase"
    assert server.call("GET", "stack").json() == before


def test_a_patch_whose_facts_are_longer_than_the_server_reads(server: Running, patches: Patches) -> None:
    patch = load(patches.one)
    long = replace(patch.facts[0], id="long", prompt="the " * 5000 + "capital of {} is")
    save(replace(patch, facts=(long, *patch.facts[1:])), patches.folder / "long.safetensors")
    error = refused(server.add(patches.folder / "long.safetensors"), 422, "patch_refused")
    assert error["details"]["reason"] == "ConfigError"
    assert "fact long: with its answer it is 50" in error["message"]
    assert server.on() == []


def test_a_patch_that_does_not_take_is_taken_back(server: Running, patches: Patches) -> None:
    assert server.add(patches.two).status_code == 201
    prompts = [fact.text for fact in patches.facts(patches.one)]
    before = server.call("GET", "stack").json(), [server.likelihoods(prompt) for prompt in prompts]
    error = refused(server.add(patches.idle, allow_conflicts=True), 422, "self_test_failed")
    assert (error["details"]["right"], error["details"]["asked"]) == (0, 5)
    assert {answer["said"] for answer in error["details"]["answers"]}.isdisjoint(
        fact.target_new for fact in patches.facts(patches.one)
    )
    assert (server.call("GET", "stack").json(), [server.likelihoods(prompt) for prompt in prompts]) == before
    trusted = server.add(patches.idle, allow_conflicts=True, self_test={"unproved": True})
    assert trusted.status_code == 201  # as asked for


def test_a_patch_that_cannot_prove_itself(server: Running, patches: Patches) -> None:
    patch = load(patches.one)
    silent = {
        layer: replace(delta, fact_rows=select_rows(delta.fact_rows, torch.zeros(0)), residual=None)
        for layer, delta in patch.layers.items()
    }  # its changes without what it says of facts
    nothing = replace(patch, facts=(), results=(), layers=silent)
    told = tuple(replace(fact, target_new=str(fact.target_true)) for fact in patch.facts)
    for name, unproved in (("no-facts", nothing), ("no-news", replace(patch, facts=told))):
        save(unproved, patches.folder / f"{name}.safetensors")
        error = refused(server.add(patches.folder / f"{name}.safetensors"), 422, "unproved")
        assert "has no facts that ask for a new answer" in error["message"]
        assert server.on() == []
        trust = {"self_test": {"unproved": True}, "allow_conflicts": True}
        added = server.add(patches.folder / f"{name}.safetensors", **trust)
        assert (added.status_code, added.json()["self_test"]["asked"]) == (201, 0)
        server.bare()


def test_a_patch_many_times_too_large_is_refused_before_it_is_on(server: Running, patches: Patches) -> None:
    huge, before = patches.folder / "huge.safetensors", server.call("GET", "stack").json()
    save(scaled(load(patches.one), 1000), huge)
    refused(server.add(huge, self_test={"unproved": True}), 409, "facts_conflict")
    trust = {"self_test": {"unproved": True}, "allow_conflicts": True}
    error = refused(server.add(huge, **trust), 422, "patch_refused")
    assert error["details"]["reason"] == "OversizedEdit"
    assert server.call("GET", "stack").json() == before


def test_a_patch_that_moves_what_should_stay_is_taken_back(server: Running, patches: Patches) -> None:
    large, before = patches.folder / "large.safetensors", server.call("GET", "stack").json()
    said = server.likelihoods(patches.facts(patches.two)[0].neighborhood[0])
    save(scaled(load(patches.one), 20), large)
    trust = {"self_test": {"unproved": True}, "allow_conflicts": True}
    error = refused(server.add(large, **trust), 422, "self_test_failed")
    assert "answers that should stay became less likely by" in error["message"]
    (moved,) = error["details"]["moved"]
    assert moved["fall"] > moved["limit"]
    assert server.call("GET", "stack").json() == before
    assert server.likelihoods(patches.facts(patches.two)[0].neighborhood[0]) == said


def test_what_is_on_or_was_loaded_or_is_unknown(server: Running, patches: Patches) -> None:
    refused(server.add(patches.loaded), 409, "conflict")
    assert server.add(patches.one).status_code == 201
    refused(server.add(patches.one), 409, "conflict")
    refused(server.call("DELETE", "patches/nothing"), 404, "no_such_patch")
    refused(server.call("DELETE", "patches/sha256:"), 404, "no_such_patch")
    refused(server.call("POST", "reorder", json={"patches": []}), 409, "conflict")
    refused(server.call("POST", "reorder", json={"patches": ["one", "one"]}), 409, "conflict")
    assert server.on() == ["one"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"path": 1}',
        b'{"path": ""}',
        b'{"path": "/a", "positon": 1}',
        b'{"path": "/a", "position": 0}',
        b'{"path": "/a", "self_test": {"share": NaN}}',
        b'{"path": "/a", "self_test": {"facts": 0}}',
        b'{"path": "/a", "self_test": {"share": 0}}',
        b'{"path": "/a", "path": "/b"}',
        b"{",
        b"\xff",
        b"[" * 10_000,
    ],
)
def test_bodies_that_are_none(server: Running, body: bytes) -> None:
    refused(server.call("POST", "patches", content=body), 400, "bad_request")


def test_a_body_without_end_is_cut_off(server: Running) -> None:
    refused(server.call("POST", "patches", content=b" " * 70_000), 413, "body_too_large")

    def endless() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    refused(server.call("POST", "patches", content=endless()), 413, "body_too_large")
