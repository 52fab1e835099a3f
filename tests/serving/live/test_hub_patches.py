"""Patches that a running server fetches from a Hub on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moe_patch.patch import load
from tests.serving.live.conftest import Patches, tampered
from tests.serving.live.server import COMMAND, TOKEN, Running, refused
from tests.share.hub_server import Files, Hub

NAME = "allowed/capitals"


def published(path: Path) -> Files:
    """What a repository holds that a patch was pushed to."""
    return {"patch.safetensors": path.read_bytes(), "README.md": b""}


def test_what_a_branch_means_goes_on_and_comes_back(server: Running, patches: Patches, hub: Hub) -> None:
    fact, other = patches.facts(patches.one)[0], patches.facts(patches.two)[0]
    hub.put(NAME, published(patches.one), branch="v2")
    added = server.add(f"hf://{NAME}@v2")
    assert added.status_code == 201, added.text
    assert added.json()["self_test"]["right"] == 5
    (member,) = added.json()["stack"]["patches"]
    assert (member["name"], member["hash"]) == ("capitals", load(patches.one).hash)
    assert server.says(fact.text, 6).strip().startswith(fact.target_new)

    hub.put(NAME, published(patches.two), branch="v2")  # which changes nothing that was fetched
    assert server.call("DELETE", "patches/capitals").status_code == 200
    assert not server.says(fact.text, 6).strip().startswith(fact.target_new)
    assert server.call("POST", "rollback").json()["stack"]["patches"] == [member]
    server.bare()
    assert server.add(f"hf://{NAME}@v2").json()["stack"]["patches"][0]["hash"] == load(patches.two).hash
    assert server.says(other.text, 6).strip().startswith(other.target_new)


def test_a_commit_needs_the_hub_once(server: Running, patches: Patches, hub: Hub) -> None:
    commit = hub.put("allowed/rivers", {"eu/rivers.safetensors": patches.one.read_bytes()})
    reference = f"hf://allowed/rivers/eu/rivers.safetensors@{commit}"
    command = [COMMAND, "live", "add", reference, "--url", server.url]
    subprocess.run(command, env={"MOE_PATCH_TOKEN": TOKEN, "PATH": ""}, check=True, capture_output=True)
    assert server.on() == ["rivers"]
    server.bare()
    hub.seen.clear()
    assert server.add(reference).status_code == 201
    assert not hub.seen


@pytest.mark.parametrize("name", ["stranger/capitals", "allowedly/capitals"])
def test_of_other_organisations_the_hub_is_not_even_asked(
    server: Running, patches: Patches, hub: Hub, name: str
) -> None:
    commit = hub.put(name, published(patches.one))
    hub.seen.clear()
    for reference in (f"hf://{name}", f"hf://{name}@{commit}", f"hf://{name}/patch.safetensors"):
        error = refused(server.add(reference), 403, "place_not_allowed")
        assert "takes from the Hub what begins with hf://allowed" in error["message"]
    assert not hub.seen
    assert server.on() == []


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("hf://allowed/nothing", "HubError"),
        (f"hf://{NAME}@v3", "HubError"),
        (f"hf://{NAME}/rivers.safetensors", "HubError"),
        ("hf://allowed", "ConfigError"),
        ("hf://allowed/../stranger/capitals", "ConfigError"),
        (f"hf://{NAME}/../../stranger/patch.safetensors", "ConfigError"),
    ],
)
def test_what_the_hub_does_not_have(
    server: Running, patches: Patches, hub: Hub, reference: str, reason: str
) -> None:
    hub.put(NAME, published(patches.one))
    before = server.call("GET", "stack").json()
    error = refused(server.add(reference), 422, "patch_refused")
    assert error["details"]["reason"] == reason
    assert reference in error["message"]
    assert server.call("GET", "stack").json() == before


def test_what_was_tampered_with_on_the_hub(server: Running, patches: Patches, hub: Hub) -> None:
    hub.put("allowed/tampered", {"patch.safetensors": tampered(patches.one)})
    hub.put("allowed/cut", {"patch.safetensors": patches.one.read_bytes()[:-1]})
    for name, reason in (("tampered", "HashMismatch"), ("cut", "TruncatedPatch")):
        error = refused(server.add(f"hf://allowed/{name}"), 422, "patch_refused")
        assert error["details"]["reason"] == reason
    assert server.on() == []
