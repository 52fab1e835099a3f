"""Merges into MXFP4 and FP8 experts: what is read, what keeps its bytes, what is lost, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors import safe_open
from transformers import AutoTokenizer, FineGrainedFP8Config, Mxfp4Config

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.checkpoint import open_checkpoint, plan_merge, unmerge_checkpoint
from moe_patch.checkpoint.grid import E2M1, E4M3, Grid
from moe_patch.checkpoint.quantised import QuantisedSlot
from moe_patch.errors import ModelError, PatchError
from moe_patch.patch import Patch
from tests.checkpoint.folders import files, saved
from tests.checkpoint.quantising import fp8_folder, mxfp4_folder
from tests.margins import at_most
from tests.tiny import auto_class, tiny_patch

KINDS = ["mxfp4", "fp8"]
MAKE: dict[str, Callable[[Path], Path]] = {"mxfp4": mxfp4_folder, "fp8": fp8_folder}
FP8_OPENS_SINCE = Version("5.23")  # or earlier, but not in 5.16
TYPE = {"mxfp4": "gpt_oss", "fp8": "qwen3_moe"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKE[kind](tmp_path_factory.mktemp(kind) / "base")


def dequantised(folder: Path, kind: str) -> Base:
    """The model as transformers opens it, dequantised."""
    if kind == "fp8" and Version(transformers.__version__) < FP8_OPENS_SINCE:
        pytest.skip("this transformers release fails to open FP8 experts in floats")
    config = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}[kind](dequantize=True)
    model = auto_class(TYPE[kind]).from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)
    return wrap(model.eval(), AutoTokenizer.from_pretrained(folder))


def patch_for(folder: Path, kind: str, scale: float = 0.05) -> Patch:
    return tiny_patch(dequantised(folder, kind), [1], scale=scale)


def down(folder: Path, kind: str, layer: int) -> torch.Tensor:
    with dequantised(folder, kind).layer(layer).weights() as weights:
        return weights.clone()


def test_the_weights_are_those_that_transformers_reads(folder: Path, kind: str) -> None:
    checkpoint, base = open_checkpoint(folder, quantised=True), dequantised(folder, kind)
    for layer in base.layers:
        with base.layer(layer).weights() as weights:
            for expert, slot in enumerate(checkpoint.slots[layer]):
                assert isinstance(slot, QuantisedSlot)
                assert torch.equal(slot.read(folder), weights[expert])
    assert checkpoint.fingerprint([0, 1]) == base.fingerprint([0, 1])


def test_what_is_not_edited_keeps_every_byte(folder: Path) -> None:
    for slots in open_checkpoint(folder, quantised=True).slots.values():
        for slot in slots:
            raw, weight = slot.write(folder, slot.read(folder).float(), torch.zeros(0, slot.shape[1]))
            assert (folder / slot.file).read_bytes()[slot.begin : slot.end] == raw
            assert torch.equal(weight, slot.read(folder))


@pytest.mark.parametrize("grid", [E2M1, E4M3], ids=["e2m1", "e4m3"])
def test_around_gives_the_nearest_number_and_the_one_on_the_other_side(grid: Grid) -> None:
    exact = (
        1.2 * grid.values.abs().max() * (2 * torch.rand(5000, generator=torch.Generator().manual_seed(0)) - 1)
    )
    nearest, beyond = grid.around(exact)
    off = (exact[:, None] - grid.values).abs()  # (N, n)
    assert torch.equal(off.gather(1, nearest[:, None])[:, 0], off.amin(1))
    inside = exact.abs() < grid.values.max()
    low, high = (pick(grid.values[nearest], grid.values[beyond]) for pick in (torch.minimum, torch.maximum))
    assert bool(((low < exact) & (exact < high))[inside].all())
    assert torch.equal(nearest[~inside], beyond[~inside])
    assert bool((grid.around(grid.values)[1] == torch.arange(len(grid.values))).all())
    assert torch.equal(grid.meaning(grid.codes), grid.values)


@pytest.mark.quality
def test_a_large_edit_is_there_when_the_model_is_opened_again(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    patch = patch_for(folder, kind, scale=0.15)
    plan = plan_merge(
        open_checkpoint(folder, quantised=True),
        [patch],
        tmp_path / "out",
        rounding="compensated",
        allow_loss=True,
    )
    record = plan.run()
    before, after = down(folder, kind, 1).float(), down(plan.out, kind, 1).float()
    delta, got, asked = patch.layers[1], 0.0, 0.0
    for expert in delta.experts():
        key, _ = delta.fact_rows.of(expert)
        rows = delta.rows.expert == expert
        wanted = delta.left[delta.rows.fact[rows]].T @ delta.rows.value[rows]  # (d_m, d_k)
        missing = (wanted - (after[expert] - before[expert])) @ key.T
        got, asked = got + float(missing.square().sum()), asked + float((wanted @ key.T).square().sum())
    at_most("share of the edit that is missing", (got / asked) ** 0.5, 0.4)
    at_most("share that is said to be lost", record.patches[0].lost["median"], 0.4)
    untouched = sorted(set(range(len(before))) - set(delta.experts()))
    assert untouched
    assert torch.equal(before[untouched], after[untouched])
    for layer in (0, 2):
        assert torch.equal(down(folder, kind, layer), down(plan.out, kind, layer))


@pytest.mark.quality
def test_compensated_rounding_keeps_what_rounding_to_the_nearest_loses(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    patch = patch_for(folder, kind)
    lost = {}
    for rounding in ("nearest", "compensated"):
        plan = plan_merge(
            open_checkpoint(folder, quantised=True),
            [patch],
            tmp_path / rounding,
            rounding=rounding,
            allow_loss=True,
        )
        lost[rounding] = plan.run().patches[0].lost["median"]
    at_most("share of the loss that is left", lost["compensated"] / lost["nearest"], 0.5)


def test_an_edit_that_would_be_lost_is_refused_with_the_way_out(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    patch = patch_for(folder, kind, scale=0.01)
    plan = plan_merge(open_checkpoint(folder, quantised=True), [patch], tmp_path / "out")
    with pytest.raises(
        PatchError, match=r"export --format peft\), round with compensation, or allow the loss"
    ):
        plan.run()
    assert not list(tmp_path.iterdir())


def test_unmerge_gives_the_same_bytes_back(folder: Path, kind: str, tmp_path: Path) -> None:
    plan = plan_merge(
        open_checkpoint(folder, quantised=True),
        [patch_for(folder, kind)],
        tmp_path / "out",
        keep_originals=True,
        allow_loss=True,
    )
    plan.run()
    unmerge_checkpoint(plan.out, tmp_path / "back")
    assert files(tmp_path / "back") == files(folder)


def test_scales_that_are_missing_are_an_error(kind: str, tmp_path: Path) -> None:
    folder = MAKE[kind](tmp_path / "base")
    ending = {"mxfp4": "_scales", "fp8": "_scale_inv"}[kind]
    file = next(path for path in folder.glob("*.safetensors") if _has(path, ending))
    file.write_bytes(file.read_bytes().replace(ending.encode(), b"_" + b"x" * (len(ending) - 1)))
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(ending, "_" + "x" * (len(ending) - 1)))
    for other in folder.glob("*.safetensors"):
        other.write_bytes(other.read_bytes().replace(ending.encode(), b"_" + b"x" * (len(ending) - 1)))
    with pytest.raises(ModelError, match=r"scales|no tensor for"):
        open_checkpoint(folder, quantised=True)


def _has(path: Path, ending: str) -> bool:
    with safe_open(path, framework="pt") as file:
        return any(name.endswith(ending) for name in file.keys())  # noqa: SIM118 (not a mapping)


def test_other_quantisations_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe")
    config = (
        (folder / "config.json")
        .read_text()
        .replace("{", '{"quantization_config": {"quant_method": "awq"},', 1)
    )
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"quantised \(awq\).*export --format peft"):
        open_checkpoint(folder, quantised=True)


def test_who_does_not_ask_for_quantised_experts_is_not_given_any(folder: Path, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"quantised \({kind}\).*adapter"):
        open_checkpoint(folder)
