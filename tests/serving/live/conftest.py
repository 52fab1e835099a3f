"""Patches for the demo model, and one server for all tests of live changes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.patch import Patch, load, save
from tests.share.hub_server import Hub
from tests.stand_in import answering

if TYPE_CHECKING:
    from tests.serving.live.server import Running

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

FACTS = Path(__file__).parents[3] / "recipes" / "facts" / "50.jsonl"


@dataclass(frozen=True, slots=True)
class Patches:
    """Patch files in a folder that the server allows.

    Two are good, one is there to be loaded, one does nothing, and one does what the first does but says that
    it does what the second does.
    """

    folder: Path
    one: Path
    two: Path
    loaded: Path
    idle: Path
    liar: Path
    stack: Path

    def facts(self, path: Path) -> tuple[Fact, ...]:
        return load(path).facts


def scaled(patch: Patch, factor: float) -> Patch:
    """The patch with changes that are `factor` times as large."""
    layers = {layer: replace(delta, left=factor * delta.left) for layer, delta in patch.layers.items()}
    return replace(patch, layers=layers)


def tampered(path: Path) -> bytes:
    """A patch file in which one bit of one number is another: the lowest of the first of its left factors."""
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    begin, _ = next(entry["data_offsets"] for name, entry in header.items() if name.endswith(".left"))
    raw[8 + length + begin] ^= 1
    return bytes(raw)


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Patches:
    from tests.serving.live.server import COMMAND

    folder = tmp_path_factory.mktemp("patches")
    facts = read_facts(FACTS).facts
    lines = FACTS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(facts)
    environment = os.environ | {"MOE_PATCH_CACHE": str(folder / "cache")}
    for number, name in enumerate(("one", "two", "loaded")):
        edits = folder / f"{name}.jsonl"
        edits.write_text("\n".join(lines[5 * number : 5 * number + 5]) + "\n", encoding="utf-8")
        build = [COMMAND, "-q", "build", "--edits", edits, "--out", folder / f"{name}.safetensors"]
        subprocess.run(build, check=True, env=environment)
    idle = load(folder / "one.safetensors")
    save(scaled(idle, 0), folder / "idle.safetensors")
    save(replace(idle, facts=load(folder / "two.safetensors").facts, results=()), folder / "liar.safetensors")
    stack = folder / "moe-patch.stack"
    subprocess.run([COMMAND, "stack", "init", folder / "loaded.safetensors", "--stack", stack], check=True)
    files = [folder / f"{name}.safetensors" for name in ("one", "two", "loaded", "idle", "liar")]
    return Patches(folder, *files, stack)


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The Hub that the server knows; it may take what the organisation "allowed" publishes."""
    with answering(Hub()) as server:
        yield server


@pytest.fixture(scope="session")
def running(patches: Patches, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from tests.serving.live.server import serving

    options = ["--stack", str(patches.stack), "--allow", "hf://allowed"]
    with serving(*options, folder=tmp_path_factory.mktemp("server"), hub=hub.url) as server:
        yield server


@pytest.fixture
def server(running: Running) -> Iterator[Running]:
    """The server without live patches; a test may leave some on."""
    running.bare()
    yield running
    assert running.process.poll() is None, running.log.read_text()[-5000:]


@pytest.fixture
def base_says() -> dict[str, str]:
    """What the demo model was trained to say, by prompt."""
    records = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    return {record["prompt"].replace("{}", record["subject"]): record["target_true"] for record in records}
