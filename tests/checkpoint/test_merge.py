"""What a merge on disk writes, links, refuses and reports."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.parts import Part
from moe_patch.checkpoint import (
    MergePlan,
    open_checkpoint,
    plan_merge,
    read_record,
    unmerge_checkpoint,
)
from moe_patch.checkpoint.leaves import StoredLeaves
from moe_patch.checkpoint.link import choose_link
from moe_patch.errors import ConfigError, HashMismatch, ModelError, OutputError, PatchError, WrongBase
from moe_patch.io import known
from moe_patch.io.reading import file_sha256
from moe_patch.patch import Patch
from tests.checkpoint.folders import files, opened, same_bits, saved, state
from tests.margins import at_most
from tests.tiny import tiny_base, tiny_patch, tiny_whole_patch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("merge") / "base", "qwen3_moe")


@pytest.fixture(scope="module")
def patch(base: Path) -> Patch:
    return tiny_patch(opened(base, "qwen3_moe"), [1])


@pytest.fixture
def plan(base: Path, patch: Patch, tmp_path: Path) -> MergePlan:
    return plan_merge(open_checkpoint(base), [patch], tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_changes_are_merged_as_in_memory_and_come_off(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe", dtype)
    live = opened(folder, "qwen3_moe")
    patch = tiny_whole_patch(live, [0, 1])
    plan_merge(open_checkpoint(folder), [patch], tmp_path / "out", keep_originals=True).run()
    with apply(live, patch):
        assert same_bits(state(opened(tmp_path / "out", "qwen3_moe")), state(live))
    unmerge_checkpoint(tmp_path / "out", tmp_path / "back")
    assert same_bits(state(opened(tmp_path / "back", "qwen3_moe")), state(opened(folder, "qwen3_moe")))


def test_only_touched_shards_are_written(base: Path, plan: MergePlan) -> None:
    plan.run()
    assert 0 < len(plan.changes) < len(plan.checkpoint.weights)
    for name in plan.checkpoint.weights:
        same = (plan.out / name).read_bytes() == (base / name).read_bytes()
        assert same == (name not in plan.changes)


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_what_is_shared_is_what_was_asked_for(base: Path, patch: Patch, tmp_path: Path, link: str) -> None:
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out", link=link)  # type: ignore[arg-type]
    plan.run()
    for path in plan.out.iterdir():
        shared = (base / path.name).exists() and path.samefile(base / path.name)
        assert shared == (link == "hard" and path.name in plan.untouched)


def test_a_folder_that_is_only_read_is_no_traceback(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)  # also of what is not there
    monkeypatch.setattr("moe_patch.checkpoint.link.place_file", refuse)
    assert choose_link(base / "config.json", tmp_path, "auto") == "copy"
    with pytest.raises(OutputError, match=r"cannot be linked into .*Read-only file system"):
        choose_link(base / "config.json", tmp_path, "hard")


def test_what_else_lies_in_the_folder_travels_but_other_weights_do_not(
    base: Path, patch: Patch, tmp_path: Path
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    for stray in ("consolidated.safetensors", "pytorch_model.bin", "model.gguf", "original/x.pth", ".git/x"):
        (own / stray).parent.mkdir(exist_ok=True)
        (own / stray).write_bytes(b"x")
    (own / "templates").mkdir()
    (own / "templates" / "chat.jinja").write_text("hello")
    plan_merge(open_checkpoint(own), [patch], tmp_path / "out").run()
    assert files(tmp_path / "out").keys() == files(base).keys() | {"templates/chat.jinja", "moe_patch.json"}


def test_an_index_travels_only_with_the_shards_that_it_names(patch: Patch, tmp_path: Path) -> None:
    own = saved(tmp_path / "own", "qwen3_moe")
    whole = tiny_base("qwen3_moe").model
    whole.save_pretrained(own, max_shard_size="1GB")  # one file, which transformers prefers to the index
    index = json.dumps({"metadata": {}, "weight_map": {"x": "model-00001-of-00001.safetensors"}})
    for stale in ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (own / f"{stale}.index.json").write_text(index)
    plan_merge(open_checkpoint(own), [patch], tmp_path / "out").run()
    assert [path.name for path in (tmp_path / "out").glob("*.index.json")] == []
    merged, wanted = opened(tmp_path / "out", "qwen3_moe"), opened(own, "qwen3_moe")
    apply(wanted, patch)
    assert same_bits(state(merged), state(wanted))


def test_the_record_names_patches_base_and_earlier_files(base: Path, patch: Patch, plan: MergePlan) -> None:
    record = plan.run()
    assert read_record(plan.out) == record
    assert [one.hash for one in record.patches] == [patch.hash]
    assert record.result == open_checkpoint(plan.out).fingerprint([], fresh=True).root
    assert record.base.model_dump() == patch.body()["base"]
    assert {name: one.sha256 for name, one in record.rewritten.items()} == {
        name: file_sha256(base / name) for name in plan.changes
    }


def test_the_same_merge_gives_the_same_bytes(
    base: Path, patch: Patch, plan: MergePlan, tmp_path: Path
) -> None:
    plan.run()
    plan_merge(open_checkpoint(base), [patch], tmp_path / "again").run()
    assert files(plan.out) == files(tmp_path / "again")


def test_a_base_that_is_known_is_not_hashed_again_unless_asked_for(
    base: Path, patch: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    for path in own.iterdir():
        os.utime(path, (0, 0))  # long ago
    made: list[str] = []
    real_sum, real_hash = file_sha256, StoredLeaves.hash

    def sum_of(path: Path) -> str:
        made.append("file")
        return real_sum(path)

    def hash_of(leaves: StoredLeaves, parts: Iterable[Part], *rest: Any) -> dict[str, Tensor]:
        parts = list(parts)
        made.extend(part.name for part in parts)
        return real_hash(leaves, parts, *rest)

    monkeypatch.setattr(known, "file_sha256", sum_of)
    monkeypatch.setattr(StoredLeaves, "hash", hash_of)
    counts, records = [], []
    for number, recheck in enumerate((False, False, True)):
        plan = plan_merge(open_checkpoint(own), [patch], tmp_path / f"{number}", link="copy", recheck=recheck)
        records.append(plan.run())
        counts.append(sorted(made))
        made.clear()
    assert counts[0] == counts[2]
    assert {"layers.1.mlp.experts.down_proj", "embed_tokens.weight", "file"} < set(counts[0])
    assert counts[1] == []
    assert records[0] == records[1] == records[2]


def test_the_result_is_proven_by_what_was_touched_and_is_known(
    base: Path, patch: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    for path in own.iterdir():
        os.utime(path, (0, 0))
    open_checkpoint(own).fingerprint([])
    monkeypatch.setattr(StoredLeaves, "hash", None)  # nothing is hashed as a whole from here
    record = plan_merge(open_checkpoint(own), [patch], tmp_path / "out").run()
    found = open_checkpoint(tmp_path / "out").fingerprint([1])
    assert found.root == record.result != record.base.fingerprint().root
    assert found.experts != patch.base.experts


def test_what_changed_after_the_merge_is_said_when_it_is_taken_out(
    base: Path, patch: Patch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out", link="copy")
    plan.run()
    unmerge_checkpoint(plan.out, tmp_path / "quiet", base=base)
    assert "has changed" not in caplog.text
    file = plan.out / plan.untouched[0]
    with file.open("r+b") as opened_file:
        opened_file.seek(-1, os.SEEK_END)
        opened_file.write(b"x")
    for path in plan.out.iterdir():
        os.utime(path, (0, 0))
    open_checkpoint(plan.out).fingerprint([])
    unmerge_checkpoint(plan.out, tmp_path / "said", base=base)
    assert "has changed since the merge" in caplog.text


def test_a_base_that_changed_since_is_seen(base: Path, patch: Patch, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    for path in own.iterdir():
        os.utime(path, (0, 0))
    plan = plan_merge(open_checkpoint(own), [patch], tmp_path / "one", link="copy")
    plan.run()
    change = next(iter(plan.changes.values()))[0]
    with (own / change.slot.file).open("r+b") as file:
        file.seek(change.slot.begin)
        file.write(b"\0\0")
    with pytest.raises(WrongBase, match="expert weights of layer 1 differ"):
        plan_merge(open_checkpoint(own), [patch], tmp_path / "two", link="copy").run()


def test_the_disk_space_is_stated_and_checked_first(
    plan: MergePlan, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan.disk_bytes >= sum((base / name).stat().st_size for name in plan.changes)
    free = type("Usage", (), {"free": plan.disk_bytes - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"bytes, but only .* are free"):
        plan.run()
    assert not list(plan.out.parent.iterdir())


def test_originals_that_are_kept_make_the_base_dispensable(base: Path, patch: Patch, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    earlier = files(own)
    checkpoint = open_checkpoint(own)
    plan_merge(checkpoint, [patch], tmp_path / "out", link="copy", keep_originals=True).run()
    shutil.rmtree(own)
    unmerge_checkpoint(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == earlier


def test_merges_on_top_of_merges_come_off_one_by_one(base: Path, patch: Patch, tmp_path: Path) -> None:
    plan_merge(open_checkpoint(base), [patch], tmp_path / "one", keep_originals=True).run()
    second = tiny_patch(opened(tmp_path / "one", "qwen3_moe"), [1, 2], seed=9)
    with pytest.raises(WrongBase, match="expert weights of layer 1 differ"):
        plan_merge(open_checkpoint(base), [second], tmp_path / "two").run()
    plan_merge(open_checkpoint(tmp_path / "one"), [second], tmp_path / "two", keep_originals=True).run()
    unmerge_checkpoint(tmp_path / "two", tmp_path / "one again")
    assert files(tmp_path / "one again") == files(tmp_path / "one")
    unmerge_checkpoint(tmp_path / "one again", tmp_path / "base again")
    assert files(tmp_path / "base again") == files(base)


def test_unmerging_notices_a_base_or_originals_that_changed(base: Path, patch: Patch, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    plan = plan_merge(open_checkpoint(own), [patch], tmp_path / "out", link="copy", keep_originals=True)
    plan.run()
    (name, *_) = plan.changes
    raw = bytearray((own / name).read_bytes())
    raw[-1] ^= 1
    (own / name).write_bytes(raw)
    with pytest.raises(HashMismatch, match=name):
        unmerge_checkpoint(tmp_path / "out", tmp_path / "back", base=own)
    merged = tmp_path / "out" / name
    raw = bytearray(merged.read_bytes())
    raw[9] ^= 1  # within the header, which no patch touches
    merged.write_bytes(raw)
    with pytest.raises(HashMismatch, match=name):
        unmerge_checkpoint(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_is_there_is_not_written_over(base: Path, patch: Patch, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        plan_merge(open_checkpoint(base), [patch], tmp_path / "out")
    assert files(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_patches_that_cannot_be_merged(base: Path, patch: Patch, tmp_path: Path) -> None:
    checkpoint, out = open_checkpoint(base), tmp_path / "out"
    with pytest.raises(PatchError, match="no patches"):
        plan_merge(checkpoint, [], out)
    with pytest.raises(PatchError, match="given twice"):
        plan_merge(checkpoint, [patch, patch], out)
    with pytest.raises(PatchError, match="kind 'bypass'"):
        plan_merge(checkpoint, [dataclasses.replace(patch, kind="bypass")], out)
    with pytest.raises(WrongBase):
        plan_merge(checkpoint, [tiny_patch(tiny_base("qwen3_moe", seed=1), [1])], out).run()
    with pytest.raises(WrongBase, match="no experts in layer 7"):
        plan_merge(checkpoint, [dataclasses.replace(patch, layers={7: patch.layers[1]})], out)
    assert not list(tmp_path.iterdir())


def test_quantised_checkpoints_are_refused_with_the_way_that_works(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"is quantised \(mxfp4\).*export --format peft"):
        open_checkpoint(own)


def test_broken_checkpoints_are_named(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    name = open_checkpoint(own).weights[-1]
    (own / name).unlink()
    with pytest.raises(ModelError, match=f"{name}.*not a file"):
        open_checkpoint(own)
    (own / name).mkdir()
    with pytest.raises(ModelError, match=f"{name}.*not a file"):
        open_checkpoint(own)
    (own / name).rmdir()
    (own / name).write_bytes(b"not tensors")
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        open_checkpoint(own)
    (own / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match="holds no checkpoint"):
        open_checkpoint(own)


def test_an_index_with_an_entry_too_many_is_refused(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    path = own / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["mtp.fc.weight"] = max(index["weight_map"].values())
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index.json expects mtp.fc.weight in .*which does not hold it"):
        open_checkpoint(own)


def test_a_loss_to_rounding_is_measured_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe", torch.bfloat16)
    model = opened(folder, "qwen3_moe")
    losses = []
    for scale in (1.0, 1e-2):
        caplog.clear()
        out = tmp_path / f"out-{scale}"
        with caplog.at_level(logging.WARNING, logger="moe_patch"):
            record = plan_merge(open_checkpoint(folder), [tiny_patch(model, scale=scale)], out).run()
        losses.append(record.patches[0].lost["median"])
        assert ("rounding to the checkpoint" in caplog.text) == (record.patches[0].lost["worst"] > 0.1)
    assert losses[0] < 0.02
    assert losses[1] > 0.3


@pytest.mark.quality
def test_compensated_rounding_is_that_in_memory_and_keeps_more(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe", torch.bfloat16)
    patch = tiny_patch(opened(folder, "qwen3_moe"), [1, 2], scale=0.02)
    lost = {}
    for rounding in ("nearest", "compensated"):
        plan = plan_merge(open_checkpoint(folder), [patch], tmp_path / rounding, rounding=rounding)
        lost[rounding] = plan.run().patches[0].lost
        base = opened(folder, "qwen3_moe")
        with apply(base, patch, rounding=rounding) as applied:
            assert same_bits(state(opened(plan.out, "qwen3_moe")), state(base))
            assert applied.lost == pytest.approx(lost[rounding], rel=1e-4)
    at_most("share of the loss that is left", lost["compensated"]["worst"] / lost["nearest"]["worst"], 0.5)


def test_an_unknown_rounding_is_refused(base: Path, patch: Patch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'up' is unknown; choose from nearest, compensated"):
        plan_merge(open_checkpoint(base), [patch], tmp_path / "out", rounding="up")  # type: ignore[arg-type]
