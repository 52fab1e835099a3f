"""Whatever is wrong with a command line, its files or the machine: no command ends in a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_patch.cli import main
from moe_patch.data.fact_file import write_facts
from tests.cli.conftest import FACTS
from tests.cli.mistakes import commands, draw_attempt
from tests.tiny import tiny_base

BUILD = (
    "--model",
    "model",
    "--layers",
    "1",
    "--corpus",
    "text.txt",
    "--unseen",
    "edit",
    "--set",
    "targets.steps=2",
)
BENCH = (*(word for word in BUILD if word not in ("--unseen", "edit")), "--set", "unseen=edit")


def run(*words: str) -> None:
    result = CliRunner().invoke(main, ["-q", *words])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that a command takes."""
    folder = tmp_path_factory.mktemp("mistakes") / "workshop"
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        _furnish()
    finally:
        os.chdir(before)
    return folder


def _furnish() -> None:
    base = tiny_base("qwen3_moe")
    base.model.save_pretrained("model", max_shard_size="100KB")
    base.tokenizer.save_pretrained("model")
    write_facts("facts.jsonl", FACTS[:2])
    write_facts("others.jsonl", FACTS[2:])
    Path("text.txt").write_text("Rain fell on the harbour all night.\nA train leaves every other hour.\n")
    Path("recipe.yaml").write_text(
        "name: tiny\nmatch: {hidden_size: 32}\nmethods:\n  moeedit: {layers: [0]}\n"
    )
    run("build", "--edits", "facts.jsonl", "--out", "patch.safetensors", *BUILD)
    run("build", "--edits", "others.jsonl", "--out", "other.safetensors", *BUILD)
    run("stack", "init", "patch.safetensors")
    run("merge", "--model", "model", "--patch", "patch.safetensors", "--out", "merged", "--keep-originals")
    run("bench", "--edits", "facts.jsonl", "--methods", "moeedit", "--out", "runs", *BENCH)
    run("export", "patch.safetensors", "--model", "model", "--format", "peft", "--out", "adapter")
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    Path("key").write_bytes(pem)
    Path("key.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    run("sign", "patch.safetensors", "--key", "key")
    Path("token").write_text("a-token-of-enough-characters\n")
    Path("moe-patch.json").write_text(json.dumps({}))


def _no_server(*_: object) -> NoReturn:
    raise SystemExit(0)


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
@settings(
    max_examples=int(os.environ.get("MOE_PATCH_TEST_MISTAKES", "8")),
    derandomize="MOE_PATCH_TEST_MISTAKES"
    not in os.environ,  # a change is judged by the same mistakes each time
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(data=st.data())
def test_no_mistake_ends_in_a_traceback(
    words: tuple[str, ...], data: st.DataObject, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execve", _no_server)
    with TemporaryDirectory() as folder:
        here = Path(folder) / "here"
        attempt = draw_attempt(data.draw, words, workshop, here)
        with monkeypatch.context() as moved:
            moved.chdir(here)
            with attempt.conditions():
                result = CliRunner().invoke(main, attempt.words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{attempt} ended in a traceback") from result.exception
    if result.exit_code:
        assert result.output.strip(), attempt
