"""`moe-patch stack`, `drop`, `diff` and `log`: the life of patches, without a model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moe_patch.patch import Patch, load, save
from moe_patch.stack import read_lock
from tests.cli.conftest import Run
from tests.patch.patches import bypass_patch, digest, fingerprint
from tests.stack.patches import World


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with patches a, b and c of nine facts of one world; commands run in it."""
    monkeypatch.chdir(tmp_path)
    world = World(9)
    for name, chosen in (("a", [0, 1, 2]), ("b", [3, 4, 5]), ("c", [6, 7, 8])):
        save(world.build(chosen), tmp_path / f"{name}.safetensors")
    return tmp_path


def listed(run: Run) -> list[tuple[str, bool]]:
    shown = json.loads(run("stack", "list", "--json").stdout)
    return [(patch["path"].removesuffix(".safetensors"), patch["enabled"]) for patch in shown["patches"]]


def write(name: str, patch: Patch) -> None:
    save(patch, f"{name}.safetensors")


def test_a_stack_grows_shrinks_and_comes_back(run: Run, here: Path) -> None:
    assert run("stack", "init", "a.safetensors").stdout == "moe-patch.stack: 1 patch, 1 on, revision 0\n"
    run("stack", "add", "b.safetensors", "c.safetensors", "--position", "1")
    assert listed(run) == [("b", True), ("c", True), ("a", True)]
    run("stack", "disable", "c")
    run("stack", "move", "a", "1")
    assert listed(run) == [("a", True), ("b", True), ("c", False)]
    assert run("stack", "remove", "1", "b").stdout == "moe-patch.stack: 1 patch, 0 on, revision 4\n"
    run("stack", "enable", "c.safetensors")
    assert listed(run) == [("c", True)]
    for expected in (
        [("c", False)],
        [("a", True), ("b", True), ("c", False)],
        [("b", True), ("c", False), ("a", True)],
        [("b", True), ("c", True), ("a", True)],
        [("a", True)],
    ):
        assert run("stack", "undo").exit_code == 0
        assert listed(run) == expected
    result = run("stack", "undo")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: moe-patch.stack is at its first revision: there is nothing to undo\n",
    )
    assert "a.safetensors" in run("stack", "list").stdout


def test_how_patches_are_combined_can_be_changed(run: Run, here: Path) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors")
    assert run("stack", "combine", "add").stdout == "moe-patch.stack: 2 patches, 2 on, revision 1\n"
    assert read_lock(here / "moe-patch.stack").combine == "add"
    run("stack", "undo")
    assert read_lock(here / "moe-patch.stack").combine == "solve"
    assert run("stack", "combine", "average").exit_code == 2


def test_paths_are_kept_as_seen_from_the_lock_file(run: Run, here: Path) -> None:
    (here / "stacks").mkdir()
    lock = here / "stacks" / "all.stack"
    assert run("stack", "init", here / "a.safetensors", "--stack", lock).exit_code == 0
    assert read_lock(lock).patch[0].path == "../a.safetensors"
    assert run("stack", "check", "--stack", lock).exit_code == 0


def test_diff_says_what_was_done(run: Run, here: Path) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors")
    run("stack", "add", "c.safetensors", "--stack", "moe-patch.stack")
    assert run("stack", "diff").stdout == "+ 3 c.safetensors\n"
    run("stack", "move", "b", "1")
    assert run("stack", "diff").stdout.splitlines() == [
        "~ 1 b.safetensors: was number 2",
        "~ 2 a.safetensors: was number 1",
    ]
    run("stack", "disable", "c")
    assert run("stack", "diff").stdout == "~ 3 c.safetensors: off\n"
    run("stack", "init", "a.safetensors", "--combine", "add", "--stack", "other.stack")
    changes = json.loads(run("stack", "diff", "other.stack", "--json").stdout)["changes"]
    assert changes == ["- 1 b.safetensors", "- 3 c.safetensors", "~ combine: add, was solve"]


def test_patches_of_another_base_or_that_contradict_are_not_added(run: Run, here: Path) -> None:
    world = World(9)
    patch = world.build([0])
    write("foreign", replace(patch, base=replace(fingerprint(1, 10), config=digest(9))))
    write("liar", replace(patch, facts=(replace(patch.facts[0], target_new="Atlantis"),)))
    run("stack", "init", "a.safetensors")
    result = run("stack", "add", "foreign.safetensors")
    assert result.exit_code == 1
    assert "built for another base than the stack: its config differs" in result.stderr
    result = run("stack", "add", "liar.safetensors")
    assert result.exit_code == 1
    assert "contradictory facts: 'Town 0 lies in': a says 'Land 0', liar says 'Atlantis'" in result.stderr
    assert listed(run) == [("a", True)]
    assert run("stack", "add", "liar.safetensors", "--allow-conflicts").exit_code == 0
    assert run("stack", "check").exit_code == 1
    refused = run("stack", "resolve", "-o", "out.safetensors")
    assert refused.exit_code == 1
    assert "contradictory facts" in refused.stderr
    assert not (here / "out.safetensors").exists()
    allowed = run("stack", "resolve", "-o", "out.safetensors", "--allow-conflicts")
    assert "liar counts" in allowed.stdout
    assert "Atlantis" in {fact.target_new for fact in load("out.safetensors").facts}
    run("stack", "disable", "liar")
    assert run("stack", "enable", "liar").exit_code == 1
    assert run("stack", "check").exit_code == 0


def test_check_finds_files_that_are_not_the_locked_ones(run: Run, here: Path) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors", "c.safetensors")
    (here / "a.safetensors").write_bytes((here / "a.safetensors").read_bytes()[:-1])
    (here / "b.safetensors").write_bytes((here / "c.safetensors").read_bytes())
    (here / "c.safetensors").unlink()
    result = run("stack", "check", "--json")
    assert result.exit_code == 1
    texts = [finding["text"] for finding in json.loads(result.stdout)["findings"]]
    assert [text[:8] for text in texts] == ["patch 1:", "patch 2:", "patch 3:"]
    assert "tensors" in texts[0]
    assert "the stack was locked with" in texts[1]
    assert "c.safetensors" in texts[2]
    assert "c.safetensors (missing)" in run("stack", "list").stdout
    assert run("stack", "resolve", "-o", "out.safetensors").exit_code == 1


def test_check_scores_every_pair_and_thresholds_decide(run: Run, here: Path) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors", "--combine", "add")
    shown = json.loads(run("stack", "check", "--refuse", "1e9", "--json").stdout)
    pairs = {(pair["disturbed"], pair["by"], pair["layer"]): pair["worst"] for pair in shown["pairs"]}
    assert set(pairs) == {("a", "b", 1), ("b", "a", 1), ("a", "b", 10), ("b", "a", 10)}
    worst = max(pairs.values())
    assert shown["pairs"][0]["worst"] == worst > 0
    assert run("stack", "check", "--refuse", str(2 * worst)).exit_code == 0
    refused = run("stack", "check", "--refuse", str(worst / 2), "--warn", "0")
    assert refused.exit_code == 1
    assert "refuse: " in refused.stdout
    assert run("stack", "check", "--refuse", str(worst / 2), "--allow-conflicts").exit_code == 0


def test_two_bypasses_on_one_layer_are_refused_and_deltas_beside_one_are_not(run: Run, here: Path) -> None:
    one = replace(bypass_patch(), base=fingerprint(1))
    write("one", one)
    write("two", replace(one, created="2026-02-28T12:00:00+00:00"))
    run("stack", "init", "a.safetensors", "one.safetensors")
    assert run("stack", "check").exit_code == 0
    run("stack", "add", "two.safetensors")
    result = run("stack", "check")
    assert result.exit_code == 1
    assert "one and two both put a bypass beside layer 1" in result.stdout
    result = run("stack", "resolve", "-o", "out.safetensors", "--allow-conflicts")
    assert result.exit_code == 1
    assert "kind bypass" in result.stderr


def test_resolve_writes_one_patch_for_the_patches_that_are_on(run: Run, here: Path) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors", "c.safetensors")
    run("stack", "disable", "b")
    shown = json.loads(run("stack", "resolve", "-o", "out.safetensors", "--json").stdout)
    patch = load("out.safetensors")
    assert (shown["hash"], len(patch.facts)) == (patch.hash, 6)
    assert patch.hyperparameters["combine"] == "solve"
    assert list(patch.parents) == [load("a.safetensors").hash, load("c.safetensors").hash]
    again = ("stack", "resolve", "-o", "out.safetensors", "--combine", "add", "--refuse", "1e9")
    refused = run(*again)
    assert refused.exit_code == 1
    assert "out.safetensors exists already" in refused.stderr
    assert load("out.safetensors").hash == patch.hash
    run(*again, "--force")
    assert load("out.safetensors").hyperparameters["combine"] == "add"
    result = run("stack", "resolve", "-o", "nowhere/out.safetensors")
    assert result.exit_code == 2
    assert "there is no folder nowhere" in result.stderr


def test_a_heat_map_is_drawn_or_says_what_it_lacks(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("stack", "init", "a.safetensors", "b.safetensors")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib.figure", None)
        result = run("stack", "check", "--heatmap", "map.png", "--refuse", "1e9")
        assert result.exit_code == 1
        assert "needs matplotlib: pip install 'moe-patch[bench]'" in result.stderr
    result = run("stack", "check", "--heatmap", "map.bmp")
    assert "expected a name that ends in .png, .svg, .pdf" in result.stderr
    pytest.importorskip("matplotlib")
    assert run("stack", "check", "--heatmap", "map.png", "--refuse", "1e9").exit_code == 0
    assert (here / "map.png").read_bytes().startswith(b"\x89PNG")


def test_drop_diff_and_log_tell_of_one_another(run: Run, here: Path) -> None:
    result = run("drop", "a.safetensors", "--fact", "fact-1", "-o", "less.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "less.safetensors: 2 facts, without fact-1" in result.stdout
    shown = json.loads(run("diff", "a.safetensors", "less.safetensors", "--json").stdout)
    assert [fact["id"] for fact in shown["removed"]] == ["fact-1"]
    assert [layer["layer"] for layer in shown["layers"]] == [1, 10]
    assert all(0 < layer["apart"] < layer["first"] + layer["second"] for layer in shown["layers"])
    assert "Town 1 lies in" in run("diff", "a.safetensors", "less.safetensors").stdout
    assert "The same patch" in run("diff", "a.safetensors", "a.safetensors").stdout
    history = json.loads(run("log", "less.safetensors", "--json").stdout)["log"]
    assert [(step["depth"], step["facts"]) for step in history] == [(0, 2), (1, 3)]
    assert history[1]["results"] == {"loss before": 1.0}
    told = run("log", "less.safetensors").stdout
    assert load("a.safetensors").hash in told
    (here / "a.safetensors").unlink()
    assert "its file was not found" in run("log", "less.safetensors").stdout


def test_drop_names_the_facts_that_there_are(run: Run, here: Path) -> None:
    result = run("drop", "a.safetensors", "--fact", "france", "-o", "less.safetensors")
    assert result.exit_code == 1
    assert "there is no fact 'france' in the patch: it has fact-0, fact-1, fact-2" in result.stderr
    assert not (here / "less.safetensors").exists()
