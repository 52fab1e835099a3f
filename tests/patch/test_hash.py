"""The hash of a patch: what it covers, and how the specification describes it."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.patch import Patch, save
from tests.patch.patches import bypass_patch, delta_patch, digest, fingerprint


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
