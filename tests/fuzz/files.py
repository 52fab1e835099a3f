"""Valid files of every kind, and the mutation of each."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.cli import main
from moe_patch.data.fact_file import write_facts
from moe_patch.patch import load, save
from moe_patch.patch.signature import sign_patch
from tests.bypass.bypasses import patch_of, random_bypass
from tests.cli.conftest import FACTS
from tests.fuzz.patches import mutate_patch
from tests.fuzz.values import mutate_bytes, mutate_json
from tests.patch.patches import delta_patch
from tests.stack.patches import World
from tests.tiny import tiny_base, tiny_patch, tiny_whole_patch

KEY = Ed25519PrivateKey.from_private_bytes(b"0" * 32)
RECIPE = """name: tiny
match: {hidden_size: 32}
methods:
  moeedit:
    layers: [0]
    projection: false
    ridge: 7.0
    targets: {steps: 1, clamp: 0.25}
"""
FORMAT_1 = Path(__file__).parents[1] / "patch" / "data" / "format-1.safetensors"


@dataclass(frozen=True)
class Originals:
    """A folder with a tiny model and valid files."""

    folder: Path

    @cached_property
    def model(self) -> Path:
        return self.folder / "model"

    def write(self) -> None:
        base, folder = tiny_base("qwen3_moe"), self.folder
        base.model.save_pretrained(self.model, max_shard_size="40KB")
        base.tokenizer.save_pretrained(self.model)
        world = World(6)
        bypass = patch_of(random_bypass(), base=base.fingerprint([1]))
        patches = {
            "fits": tiny_patch(base, [0, 1]),
            "solved": world.build([0, 1, 2]),
            "other": world.build([2, 3, 4], relative=True),
            "left": delta_patch(3),
            "dense": tiny_whole_patch(base, [0, 1]),
            "bypass": bypass,
        }
        for name, patch in patches.items():
            save(patch, folder / f"{name}.safetensors")
        shutil.copy(FORMAT_1, folder / "format-1.safetensors")
        sign_patch(folder / "solved.safetensors", patches["solved"].hash, KEY)
        public, private = serialization.PublicFormat, serialization.PrivateFormat
        pem = serialization.Encoding.PEM
        (folder / "key").write_bytes(KEY.private_bytes(pem, private.PKCS8, serialization.NoEncryption()))
        (folder / "key.pub").write_bytes(KEY.public_key().public_bytes(pem, public.SubjectPublicKeyInfo))
        write_facts(folder / "facts.jsonl", [replace(fact, keep=("{} is",)) for fact in FACTS])
        (folder / "recipe.yaml").write_text(RECIPE)
        lock = str(folder / "moe-patch.stack")
        pair = [str(folder / f"{name}.safetensors") for name in ("solved", "other")]
        main(["stack", "init", *pair, "--allow-conflicts", "--stack", lock], standalone_mode=False)
        main(["stack", "combine", "add", "--stack", lock], standalone_mode=False)
        fits = load(folder / "fits.safetensors")
        checkpoint = open_checkpoint(self.model)
        plan_merge(checkpoint, [fits], folder / "merged", keep_originals=True).run()


@dataclass(frozen=True)
class Kind:
    """A kind of file: its valid ones, and how one is changed."""

    names: tuple[str, ...]
    mutate: Callable[[bytes, random.Random], bytes]


def _json(raw: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return mutate_bytes(raw, chance)
    return json.dumps(mutate_json(json.loads(raw), chance), ensure_ascii=chance.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def _lines(raw: bytes, chance: random.Random) -> bytes:
    """One line of several, as JSON; a line may come twice."""
    lines = raw.splitlines()
    number = chance.randrange(len(lines))
    lines[number] = _json(lines[number], chance)
    return b"\n".join([*lines, *chance.sample(lines, chance.choice([0, 0, 1]))])


def _text(raw: bytes, chance: random.Random) -> bytes:
    """A line of text with another value, number or nesting."""
    if chance.random() < 0.3:
        return mutate_bytes(raw, chance)
    lines = raw.splitlines()
    number = chance.randrange(len(lines))
    left = lines[number].partition(b" ")[0]
    values = [
        b"= " + b"9" * 5_000,
        b"= " + b"[" * 5_000,
        b'= "\\u0000"',
        b"= -1",
        b"= 1e400",
        b": *a",
        b'= "/dev/zero"',
    ]
    values += [
        b': "' + b"x" * 300 + b'"',
        b"= true",
        b'= "../../x"',
        b'= "' + b"a" * 5_000 + b'"',
        b": [" * 3_000,
    ]
    lines[number : number + chance.choice([0, 1, 1, 2])] = [left + b" " + chance.choice(values)]
    return b"\n".join(lines)


KINDS = {
    "patch": Kind(
        tuple(
            f"{name}.safetensors"
            for name in ("fits", "solved", "other", "left", "dense", "bypass", "format-1")
        ),
        mutate_patch,
    ),
    "signature": Kind(("solved.safetensors.sig",), _json),
    "lock": Kind(("moe-patch.stack",), _text),
    "record": Kind(("merged/moe_patch.json",), _json),
    "originals": Kind(("merged/moe_patch/originals",), mutate_bytes),
    "index": Kind(("merged/model.safetensors.index.json",), _json),
    "facts": Kind(("facts.jsonl",), _lines),
    "recipe": Kind(("recipe.yaml",), _text),
    "key": Kind(("key", "key.pub"), mutate_bytes),
}


def special(path: Path, chance: random.Random) -> None:
    """Something in the place of the file that is none."""
    path.unlink()
    how = chance.randrange(4)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
    elif how == 2:
        path.symlink_to("/dev/zero")
    else:
        path.touch()
