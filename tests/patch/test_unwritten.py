"""What is not written, and what stays when writing fails."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch import patch as patch_module
from moe_patch.errors import MalformedMetadata, MalformedTensor, NotFinite, OutputError, PatchError
from moe_patch.patch import Patch, save
from tests.patch.patches import (
    bypass_patch,
    delta_patch,
    fingerprint,
    generator,
    layer_delta,
    with_left_per_row,
)


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
