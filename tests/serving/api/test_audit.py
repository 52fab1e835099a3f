"""A line for each attempt, by whom and with what result."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api import requests
from moe_patch_serving.api.audit import Audit, note
from moe_patch_serving.errors import Busy
from tests.serving.api.stand_in import SECRETS, Served, serving
from tests.stack.patches import World


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_attempt_leaves_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "GUESS_SECONDS", 0.01)
    file, patch = tmp_path / "audit.jsonl", World(1).build([0])

    async def story(server: Served) -> None:
        path = server.file("capitals", patch)
        await server.add(path)
        await server.add(path)
        await server.add("/etc/passwd")
        await server.http.post("/moe_patch/patches", content=b"{")
        nightly = {"Authorization": f"Bearer {SECRETS['nightly']}"}
        await server.http.delete("/moe_patch/patches/capitals", headers=nightly)
        await server.http.delete("/moe_patch/patches/capitals", headers={"Authorization": "Bearer wrong"})
        await server.http.get("/moe_patch/stack")  # changes nothing

    async def told() -> None:
        async with serving(tmp_path, audit=file) as server:
            await story(server)

    asyncio.run(told())
    found = lines(file)
    assert [(line["operation"], line["by"], line["result"]) for line in found] == [
        ("add", "alice", "done"),
        ("add", "alice", "conflict"),
        ("add", "alice", "place_not_allowed"),
        ("add", "alice", "bad_request"),
        ("remove", "nightly", "done"),
        ("remove", "", "unauthorized"),
    ]
    assert all(line["seconds"] >= 0 and line["time"].endswith("+00:00") for line in found)
    assert [line["hash"] for line in found] == [patch.hash, patch.hash, "", "", patch.hash, ""]
    assert [line["patch"] for line in found[:3]] == ["capitals", "capitals", "/etc/passwd"]
    assert all(line["reason"] for line in found if line["result"] != "done")
    assert not any(secret in file.read_text(encoding="utf-8") for secret in (*SECRETS.values(), "wrong"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def fail(error: Exception, patch: str) -> None:
    note(patch=patch)
    raise error


def test_errors_that_nobody_expected_are_noted_too(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    audit = Audit(file)
    for error in (ZeroDivisionError(), Busy("wait")):
        with pytest.raises(type(error)), audit.attempt("add", "alice", "::1"):
            fail(error, "a\nb")
    note(patch="of no attempt")
    first, second = lines(file)
    assert (first["result"], first["reason"], first["patch"]) == ("failed", "ZeroDivisionError", "a\nb")
    assert (second["result"], second["reason"]) == ("busy", "wait")


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MOE_PATCH_AUDIT_FILE: .* cannot be written"):
        Audit(tmp_path / "none" / "audit.jsonl")
