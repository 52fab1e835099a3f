"""Patches on and off a running server: what it says, what it reports, what it counts."""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from moe_patch.patch import load
from moe_patch_serving.api.weight_version import BARE, Loaded, weight_version
from tests.serving.live.conftest import Patches
from tests.serving.live.server import COMMAND, TOKEN, Running

SECONDS = 3.0  # that a change of the demo model may take beyond draining


def wrong(server: Running, patches: Patches, path: Any) -> list[str]:
    """The facts of a patch that the server does not say."""
    facts = patches.facts(path)
    return [f.text for f in facts if not server.says(f.text, 6).strip().startswith(f.target_new)]


def test_what_was_loaded_is_in_the_weights_and_reported(server: Running, patches: Patches) -> None:
    assert not wrong(server, patches, patches.loaded)
    stack = server.call("GET", "stack").json()
    assert stack["loaded"]["patches"] == [load(patches.loaded).hash]
    assert stack["patches"] == []
    assert stack["version"] == weight_version(Loaded((load(patches.loaded).hash,)), ())


def test_a_patch_goes_on_and_off(server: Running, patches: Patches, base_says: dict[str, str]) -> None:
    prompts = [fact.text for fact in patches.facts(patches.one)]
    before = [server.likelihoods(prompt) for prompt in prompts]
    assert all(server.says(prompt, 6).strip().startswith(base_says[prompt]) for prompt in prompts)

    added = server.add(patches.one)
    assert added.status_code == 201, added.text
    assert not wrong(server, patches, patches.one)
    assert not wrong(server, patches, patches.loaded)
    assert added.json()["self_test"]["right"] == added.json()["self_test"]["asked"] == len(prompts)

    removed = server.call("DELETE", f"patches/{load(patches.one).hash}")
    assert removed.status_code == 200, removed.text
    assert [server.likelihoods(prompt) for prompt in prompts] == before
    assert added.json()["seconds"]["apply"] < SECONDS
    assert removed.json()["seconds"]["apply"] < SECONDS


def test_what_was_loaded_goes_and_comes_back(server: Running, patches: Patches) -> None:
    prompt = patches.facts(patches.loaded)[0].text
    before = server.likelihoods(prompt)
    removed = server.call("DELETE", "patches/loaded")
    assert removed.status_code == 200, removed.text
    assert removed.json()["version"] == BARE
    assert wrong(server, patches, patches.loaded)
    assert server.call("POST", "rollback").json()["self_test"]["right"] == 5
    assert server.likelihoods(prompt) == before


def test_responses_name_the_weights_and_attempts_leave_a_line(server: Running, patches: Patches) -> None:
    version = server.add(patches.one).json()["version"]
    body = {"model": "atlas", "prompt": "The", "max_tokens": 2, "stream": True}
    for answer in (
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60),
        httpx.get(f"{server.url}/v1/models", timeout=60),
    ):
        assert answer.headers["x-moe-patch-weights"] == version
    (model,) = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert model["id"] == "atlas"
    assert model["moe_patch"] == {
        "weights": version,
        "patches": [load(p).hash for p in (patches.loaded, patches.one)],
    }
    line = [line for line in server.log.read_text().splitlines() if "audit: " in line][-1]
    told = json.loads(line.partition("audit: ")[2])
    assert (told["operation"], told["by"], told["hash"], told["result"]) == (
        "add",
        "default",
        load(patches.one).hash,
        "done",
    )


def test_cached_prefixes_of_other_weights_are_not_used(server: Running, patches: Patches) -> None:
    fact = patches.facts(patches.one)[0]
    long = " ".join(f"{text}." for text in [f.text for f in patches.facts(patches.loaded)] * 2)
    prompt = f"{long} {fact.text}"
    without = server.likelihoods(prompt)
    assert server.likelihoods(prompt) == pytest.approx(without, abs=1e-4)
    hits = server.metric('vllm:prefix_cache_hits_total{engine="0",model_name="atlas"}')
    assert hits > 0, "the prompt is too short to be cached"
    server.add(patches.one).raise_for_status()
    on = server.likelihoods(prompt)
    assert max(abs(a - b) for a, b in zip(on, without, strict=True)) > 1e-2
    fresh = server._complete(prompt=prompt, max_tokens=4, logprobs=5, cache_salt="fresh")["logprobs"]
    assert on == pytest.approx([v for token in fresh["top_logprobs"] for v in token.values()], abs=1e-4)
    server.bare()
    assert server.likelihoods(prompt) == pytest.approx(without, abs=1e-4)


def test_any_order_of_removal_and_back_again(server: Running, patches: Patches) -> None:
    versions = [server.call("GET", "stack").json()["version"]]
    versions += [server.add(path).json()["version"] for path in (patches.one, patches.two)]
    assert server.on() == ["one", "two"]
    reordered = server.call("POST", "reorder", json={"patches": ["two", "one"]})
    assert [patch["name"] for patch in reordered.json()["stack"]["patches"]] == ["two", "one"]
    assert server.call("DELETE", "patches/one").status_code == 200
    assert not wrong(server, patches, patches.two)
    assert wrong(server, patches, patches.one)
    back = server.call("POST", "rollback").json()
    assert back["self_test"]["right"] == 5
    assert server.on() == ["two", "one"]
    assert server.call("POST", "rollback").json()["version"] == versions[2]
    assert server.call("POST", "rollback").json()["version"] == versions[1]
    assert not wrong(server, patches, patches.one)
    assert wrong(server, patches, patches.two)
    assert server.call("POST", "rollback").json()["version"] == versions[0]


def test_a_position_puts_a_patch_between(server: Running, patches: Patches) -> None:
    server.add(patches.one)
    assert server.add(patches.two, position=1).status_code == 201
    assert server.on() == ["two", "one"]
    assert (
        server.add(patches.idle, position=4, self_test={"unproved": True}).json()["error"]["code"]
        == "conflict"
    )


def test_the_version_is_named_to_probes_without_a_token(server: Running, patches: Patches) -> None:
    bare = server.call("GET", "ready", headers={})
    assert (bare.status_code, bare.json()["ready"]) == (200, True)
    version = server.add(patches.one).json()["version"]
    assert server.call("GET", f"ready?version={version}", headers={}).status_code == 200
    late = server.call("GET", f"ready?version={bare.json()['version']}", headers={})
    assert (late.status_code, late.json()) == (503, {"ready": False, "version": version})


def test_changes_come_one_after_the_other(server: Running, patches: Patches) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.add(patches.one), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409}
    assert codes <= {"busy", "conflict"}
    assert server.on() == ["one"]


def test_metrics_stand_beside_vllms(server: Running, patches: Patches) -> None:
    done = 'moe_patch_changes_total{operation="add",outcome="done"}'
    failed = 'moe_patch_changes_total{operation="add",outcome="self_test_failed"}'
    before = server.metric(done), server.metric(failed)
    server.add(patches.idle, allow_conflicts=True)  # does not take
    server.add(patches.one)
    assert (server.metric(done), server.metric(failed)) == (before[0] + 1, before[1] + 1)
    assert server.metric('moe_patch_patches{origin="live"}') == 1
    assert server.metric('moe_patch_patches{origin="loaded"}') == 1
    assert server.metric("moe_patch_kept_bytes") > 0
    assert server.metric("moe_patch_workers_agree") == 1
    assert server.metric('vllm:num_requests_running{engine="0",model_name="atlas"}') == 0
    server.bare()
    assert server.metric("moe_patch_kept_bytes") == 0


def test_the_command_line_changes_it_too(server: Running, patches: Patches) -> None:
    def live(*arguments: Any) -> dict[str, Any]:
        command = [COMMAND, "live", *map(str, arguments), "--url", server.url, "--json"]
        environment = {"MOE_PATCH_TOKEN": TOKEN, "PATH": ""}
        shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return json.loads(shown.stdout)["servers"][0]

    started = time.perf_counter()
    assert live("add", patches.one)["self_test"]["right"] == 5
    assert not wrong(server, patches, patches.one)
    assert time.perf_counter() - started < 60
    assert [patch["name"] for patch in live("list")["patches"]] == ["one"]
    assert live("remove", "one")["stack"]["patches"] == []
    assert live("rollback")["stack"]["patches"][0]["name"] == "one"


@pytest.mark.parametrize("harm", ["rewritten", "truncated", "deleted"])
def test_what_becomes_of_a_file_does_not_matter_to_its_patch(
    server: Running, patches: Patches, harm: str
) -> None:
    one, two = patches.folder / f"{harm}-one.safetensors", patches.folder / f"{harm}-two.safetensors"
    one.write_bytes(patches.one.read_bytes())
    two.write_bytes(patches.two.read_bytes())
    assert server.add(one).status_code == 201
    assert server.add(two).status_code == 201
    if harm == "rewritten":
        with one.open("r+b") as file:  # in place, as `cp` does it
            file.write(two.read_bytes())
    elif harm == "truncated":
        os.truncate(one, 100)
    else:
        one.unlink()
    assert server.call("POST", "reorder", json={"patches": [two.stem, one.stem]}).status_code == 200
    assert server.call("DELETE", f"patches/{one.stem}").status_code == 200
    assert wrong(server, patches, patches.one)
    assert server.call("POST", "rollback").status_code == 200
    assert not wrong(server, patches, patches.one)
    assert not wrong(server, patches, patches.two)
    assert server.call("GET", "stack").json()["agree"]
