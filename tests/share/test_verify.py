"""What `verify_patch` finds in a patch: one verdict for each way in which it can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moe_patch.base.model import Base
from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.evaluation.controls import with_controls
from moe_patch.methods import get_method
from moe_patch.patch import Patch, load, save
from moe_patch.patch.signature import key_id, sign_patch
from moe_patch.share.verify import Signers, Verdict, verify_patch
from tests.checkpoint.folders import saved
from tests.margins import at_most
from tests.patch.hostile.forge import put_together, take_apart
from tests.taught import STRONG, edit, taught_base
from tests.tiny import tiny_base, tiny_patch

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"0", b"1"))
SIGNERS = Signers([KEY.public_key()])
REQUIRED = Signers([KEY.public_key()], required=True)


@pytest.fixture(scope="module")
def taught() -> Patch:
    """A patch that makes the taught model say two facts."""
    method = get_method("moeedit")
    options = method.options(layers=(0,), projection=False, ridge=1e-3, ridge_relative=True, targets=STRONG)
    patch = method.build(taught_base(), [edit("Ann"), edit("Bob")], options)
    return with_controls(taught_base(), patch, [edit(name).text for name in ("Kim", "Liz", "Hal")])


@pytest.fixture
def path(taught: Patch, tmp_path: Path) -> Path:
    save(taught, tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def never() -> Base:
    raise AssertionError("a model is opened for a file that is worth it only")


@pytest.mark.quality
def test_a_sound_patch_passes_every_check(path: Path, taught: Patch) -> None:
    sign_patch(path, taught.hash, KEY)
    found = verify_patch(path, signers=REQUIRED, base=taught_base)
    assert found.verdict is Verdict.SOUND
    assert found.checked == ("file", "hash", "signature", "base", "sizes", "edits", "controls")
    assert taught.controls is not None
    assert found.fall is not None
    assert found.fall <= taught.controls.bound
    assert (found.hash, found.signed_by) == (taught.hash, key_id(KEY.public_key()))
    assert (found.held, found.missed) == (1.0, ())
    at_most("largest loss of an edit", max(float(result["loss_edited"]) for result in taught.results), 0.3)
    assert not taught_base().layer(1).originals


@pytest.mark.quality
@pytest.mark.parametrize(
    ("schema", "missed"), [("native", ()), ("counterfact", ()), ("zsre-alt", ("likelier",))]
)
def test_a_fact_holds_by_the_rule_of_the_patchs_schema(
    taught: Patch, tmp_path: Path, schema: FactSchema, missed: tuple[str, ...]
) -> None:
    """The second new answer is likelier than the old one, but not what the model says."""
    new = taught.facts[1].target_new
    likelier = replace(taught.facts[1], id="likelier", target_new=f"{new} {new}", target_true="qqqq qqqq")
    path = tmp_path / "p.safetensors"
    save(replace(taught, schema=schema, facts=(taught.facts[0], likelier)), path)
    assert verify_patch(path, base=taught_base, at_least=0.5).missed == missed


def test_without_a_model_the_file_alone_is_checked(path: Path) -> None:
    found = verify_patch(path)
    assert (found.verdict, found.checked, found.held) == (Verdict.SOUND, ("file", "hash"), None)


def test_no_file_half_a_file_and_no_patch_are_unreadable(path: Path, tmp_path: Path) -> None:
    half, none = tmp_path / "half.safetensors", tmp_path / "none.safetensors"
    half.write_bytes(path.read_bytes()[:-1])
    for wrong in (half, none, tmp_path):
        found = verify_patch(wrong, base=never)
        assert (found.verdict, found.hash, found.checked) == (Verdict.UNREADABLE, None, ())
        assert str(wrong) in found.reason


def test_other_content_than_its_hash_is_of_is_altered(path: Path) -> None:
    header, data = take_apart(path)
    begin, _ = header["delta.0.left"]["data_offsets"]  # a lowest bit, which keeps the number finite
    put_together(path, header, data[:begin] + bytes([data[begin] ^ 1]) + data[begin + 1 :])
    assert verify_patch(path, base=never).verdict is Verdict.ALTERED


def test_signatures(path: Path, taught: Patch) -> None:
    assert verify_patch(path, signers=REQUIRED, base=never).verdict is Verdict.UNSIGNED
    unsigned = verify_patch(path, signers=SIGNERS)
    assert (unsigned.verdict, unsigned.checked) == (Verdict.SOUND, ("file", "hash"))
    sign_patch(path, taught.hash, OTHER)
    for signers in (SIGNERS, REQUIRED):
        found = verify_patch(path, signers=signers, base=never)
        assert (found.verdict, found.hash) == (Verdict.BAD_SIGNATURE, taught.hash)


def test_the_base_on_the_disk_is_held_against_the_patch(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "qwen3_moe")
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe"), [0, 1]), right)
    save(tiny_patch(tiny_base("qwen3_moe", seed=1), [0, 1]), wrong)
    found = verify_patch(right, checkpoint=lambda: open_checkpoint(folder))
    assert (found.verdict, found.checked) == (Verdict.SOUND, ("file", "hash", "base", "sizes"))
    found = verify_patch(wrong, checkpoint=lambda: open_checkpoint(folder), base=never)
    assert (found.verdict, found.checked) == (Verdict.WRONG_BASE, ("file", "hash"))
    assert "the expert weights of layers 0-1 differ" in found.reason
    plan_merge(open_checkpoint(folder), [load(right)], tmp_path / "merged").run()
    found = verify_patch(right, checkpoint=lambda: open_checkpoint(tmp_path / "merged"))
    assert found.verdict is Verdict.WRONG_BASE
    assert "base with patches merged into it, this one among them" in found.reason


def test_another_model_is_the_wrong_base_also_where_it_lacks_the_layers(path: Path) -> None:
    for other in (tiny_base("qwen3_moe"), tiny_base("qwen3_moe", num_hidden_layers=1)):
        found = verify_patch(path, base=lambda other=other: other)
        assert found.verdict is Verdict.WRONG_BASE


@pytest.mark.quality
def test_edits_that_do_not_hold_are_named(taught: Patch, path: Path) -> None:
    lie = Fact("lie", "{} is in", "Kim", "Nowhere")
    save(replace(taught, facts=(taught.facts[0], lie)), path)
    found = verify_patch(path, base=taught_base)
    assert (found.verdict, found.held, found.missed) == (Verdict.NOT_HELD, 0.5, ("lie",))
    assert "edits" not in found.checked
    assert verify_patch(path, base=taught_base, at_least=0.5).verdict is Verdict.SOUND


@pytest.mark.quality
def test_what_should_stay_is_held_to_the_patchs_own_bound(taught: Patch, path: Path) -> None:
    assert taught.controls is not None
    save(replace(taught, controls=replace(taught.controls, bound=0.0)), path)
    moves = lambda: verify_patch(path, base=taught_base)  # noqa: E731
    fall = moves().fall
    assert fall is not None
    assert moves().verdict is (Verdict.MOVED if fall > 0 else Verdict.SOUND)
    left = {layer: replace(delta, left=300 * delta.left) for layer, delta in taught.layers.items()}
    save(replace(taught, layers=left), path)
    found = verify_patch(path, base=taught_base, at_least=0, allow_large=True)
    assert (found.verdict, "controls" in found.checked) == (Verdict.MOVED, False)


def test_a_patch_that_asks_nothing_does_not_hold_and_one_without_controls_says_so(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    patch = tiny_patch(base)
    path = tmp_path / "p.safetensors"
    told = tuple(replace(fact, target_true=fact.target_new) for fact in patch.facts)
    save(replace(patch, facts=told), path)
    found = verify_patch(path, base=lambda: base)
    assert (found.verdict, found.held, found.controls) == (Verdict.NOT_HELD, None, 0)
    assert "no fact asks for a new answer" in found.reason
    found = verify_patch(path, base=lambda: base, at_least=0)
    assert (found.verdict, "edits" in found.checked) == (Verdict.SOUND, False)


def test_every_verdict_has_an_exit_code_of_its_own() -> None:
    codes = [int(verdict) for verdict in Verdict]
    assert len(set(codes)) == len(codes)
    assert not {1, 2, 130} & set(codes)  # expected errors, wrong use, Ctrl-C
