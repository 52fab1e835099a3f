"""`moe-patch build`: options from three sources, and one complete file or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.cli.build import build
from moe_patch.errors import ConfigError
from moe_patch.methods import METHODS
from moe_patch.methods.memoe.options import MEMoEOptions
from moe_patch.methods.moeedit import MoEEditOptions
from moe_patch.methods.overrides import merged_options, option_names, parse_setting
from moe_patch.patch import load
from tests.cli.conftest import FACTS, Run

QUICK = ("--layers", "1", "--no-projection", "--set", "targets.steps=2", "--no-card")


def test_a_build_writes_a_patch_of_the_facts(run: Run, edits: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    result = run("build", "--edits", edits, "--model", model, "--out", out, *QUICK, "--seed", "3", "--json")
    assert result.exit_code == 0, result.stderr
    patch, shown = load(out), json.loads(result.stdout)
    assert patch.facts == tuple(FACTS)
    assert list(patch.layers) == [1]
    assert (shown["hash"], shown["patch"]) == (patch.hash, str(out))
    assert patch.hyperparameters["seed"] == patch.hyperparameters["targets"]["seed"] == 3
    assert patch.hyperparameters["targets"]["steps"] == 2


def test_the_patch_is_named_after_the_facts(
    run: Run, edits: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("build", "--edits", edits, "--model", model, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert load(tmp_path / "facts.safetensors").facts == tuple(FACTS)
    assert "facts.safetensors: 3 facts, built in" in result.stdout


def test_the_command_line_wins_over_the_recipe(run: Run, edits: Path, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "name: tiny\nmatch: {hidden_size: 32}\nmethods:\n  moeedit:\n"
        "    layers: [0]\n    projection: false\n    ridge: 7.0\n    targets: {steps: 1, clamp: 0.25}\n"
    )
    out = tmp_path / "out.safetensors"
    given = ("--recipe", recipe, "--ridge", "2.5", "--set", "targets.steps=2")
    result = run("build", "--edits", edits, "--model", model, "--out", out, *given)
    assert result.exit_code == 0, result.stderr
    used = load(out).hyperparameters
    assert (used["layers"], used["ridge"]) == ([0], 2.5)
    assert (used["targets"]["steps"], used["targets"]["clamp"]) == (2, 0.25)


def test_a_build_says_where_its_options_came_from(run: Run, edits: Path, model: Path, tmp_path: Path) -> None:
    given = ("--no-projection", "--set", "targets.steps=2")
    arguments = ("build", "--edits", edits, "--model", model, "--out", tmp_path / "out.safetensors", *given)
    shown = run(*arguments).stdout
    table = shown.partition("Options that are no defaults")[2]
    assert [line.split()[1:6:2] for line in table.splitlines() if " projection " in line] == [
        ["projection", "false", "given"]
    ]
    assert "chosen" in table
    options = json.loads(run(*arguments, "--force", "--json").stdout)["options"]
    assert {one["option"]: one["from"] for one in options} == {
        "projection": "given",
        "targets.steps": "given",
        "layers": "chosen",
    }


def test_an_interrupted_build_leaves_nothing_behind(
    run: Run, edits: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"the first half")
        raise KeyboardInterrupt

    monkeypatch.setattr("moe_patch.patch.file.save_file", interrupted)
    before = sorted(tmp_path.iterdir())
    result = run("build", "--edits", edits, "--model", model, "--out", tmp_path / "out.safetensors", *QUICK)
    assert result.exit_code == 130
    # Finished target values may stay in the cache: the next run takes them from there.
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before


def test_bad_facts_are_refused_before_the_model_is_opened(run: Run, tmp_path: Path) -> None:
    edits = tmp_path / "facts.jsonl"
    edits.write_text('{"prompt": "{} lies in", "subject": "Ys", "target_new": "Kernow"}\n{"prompt": "no"}\n')
    result = run("build", "--edits", edits, "--model", tmp_path / "nowhere", *QUICK)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {edits}:2: ")


def test_skipped_facts_are_listed(run: Run, model: Path, tmp_path: Path) -> None:
    edits, out = tmp_path / "facts.jsonl", tmp_path / "out.safetensors"
    edits.write_text('{"prompt": "{} lies in", "subject": "Ys", "target_new": "Kernow"}\n{"prompt": "no"}\n')
    result = run("build", "--edits", edits, "--model", model, "--out", out, "--skip-invalid", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "Skipped line 2: " in result.stderr
    assert "1 fact was skipped; 1 fact left." in result.stderr


def test_a_folder_that_is_not_there_is_refused_before_the_build(
    run: Run, edits: Path, tmp_path: Path
) -> None:
    result = run("build", "--edits", edits, "--out", tmp_path / "no" / "out.safetensors")
    assert result.exit_code == 2
    assert f"there is no folder {tmp_path / 'no'}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "unknown method 'magic': expected one of "),
        (["--set", "clamp=1"], "unknown option 'clamp': expected one of batch_size, "),
        (["--set", "targets.clamp=-1"], "targets.clamp: Input should be greater than 0, not -1"),
        (["--set", "clamp"], "--set clamp: expected key=value"),
        (["--set", "ridge=2020-13-45"], "--set ridge=2020-13-45: the value is not YAML"),
        (["--set", "ridge=" + 5000 * "["], "--set ridge=[["),
        (["--seed", "9" * 30], "targets.seed: Input should be less than"),
        (["--recipe", "nothing"], "unknown recipe 'nothing'"),
    ],
)
def test_wrong_options_are_named(
    run: Run, edits: Path, model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out.safetensors"
    result = run("build", "--edits", edits, "--model", model, "--out", out, *QUICK, *arguments)
    assert result.exit_code == 1
    assert f"Error: {message}" in result.stderr
    assert not out.exists()


def test_facts_that_did_not_take_are_listed_and_may_be_required_to(
    run: Run, edits: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"  # two steps are too few for a random model
    result = run("build", "--edits", edits, "--model", model, "--out", out, *QUICK, "--require", "0.95")
    assert result.exit_code == 15
    assert result.stderr.endswith("0.0% of the facts took; 95.0% were required\n")
    for shown in (result.stdout, run("inspect", out).stdout):
        assert "3 (native), of which 0 took (0.0%)" in shown
        assert "Facts that did not take (3)" in shown
        assert "no target value was found" in shown
    described = json.loads(run("inspect", out, "--json").stdout)
    assert described["taken"] == 0.0
    assert [one["id"] for one in described["untaken"]] == [fact.id for fact in FACTS]
    assert all(one["loss"] > 0 and one["reasons"] for one in described["untaken"])
    again = run("build", "--edits", edits, "--model", model, "-o", out, "--force", *QUICK, "--require", "0")
    assert again.exit_code == 0, again.stderr


@pytest.mark.parametrize("layers", ["", "a", "1-", "1,,2", "-1"])
def test_layers_that_are_none_are_an_error_of_use(run: Run, edits: Path, layers: str) -> None:
    result = run("build", "--edits", edits, f"--layers={layers}")
    assert result.exit_code == 2
    assert "expected a form such as 2,3,4 or 2-4" in result.stderr


def test_layers_may_be_a_range() -> None:
    context = build.make_context("build", ["--edits", __file__, "--layers", "1,3-5"])
    assert context.params["layers"] == [1, 3, 4, 5]


def test_every_option_of_every_method_can_be_set() -> None:
    for method in METHODS.values():
        defaults = method.Options.model_validate({}).model_dump()
        for name in option_names(method.Options):
            value = defaults
            for part in name.split("."):
                value = value[part]
            assert merged_options(method.Options, {}, {name: value}, "").model_dump() == defaults


def test_a_mistake_in_a_recipe_names_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"^recipe tiny: targets.clamp: .*, not 'wide'$"):
        merged_options(MoEEditOptions, {"targets": {"clamp": "wide"}}, {"ridge": 1.0}, "recipe tiny")
    with pytest.raises(ConfigError, match=r"^recipe tiny: unknown option 'lambda': expected one of "):
        merged_options(MoEEditOptions, {"lambda": 1}, {}, "recipe tiny")


@pytest.mark.parametrize("name", ["ridge", "targets.clamp", "targets.learning_rate"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_of_options_are_finite(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        merged_options(MoEEditOptions, {}, {name: value}, "")


def test_options_that_no_patch_can_hold_are_refused_before_the_work() -> None:
    with pytest.raises(ConfigError, match=r"at most 1e\+100 in magnitude, found 1e\+200"):
        merged_options(MoEEditOptions, {}, {"ridge": 1e200}, "")
    for name, value in {"scale": 1e7, "alpha": -1e7, "experts": 257, "expert_width": 2**20 + 1}.items():
        with pytest.raises(ConfigError, match=f"^{name}: "):
            merged_options(MEMoEOptions, {}, {name: value}, "")
    with pytest.raises(ConfigError, match="single adapter may be 1048576 wide"):
        merged_options(MEMoEOptions, {}, {"single": True, "experts": 200, "expert_width": 2**19}, "")


def test_a_recipe_is_not_changed_by_what_overrides_it() -> None:
    recipe = {"targets": {"clamp": 0.5}}
    merged_options(MoEEditOptions, recipe, {"targets.clamp": 0.25}, "recipe tiny")
    assert recipe == {"targets": {"clamp": 0.5}}


@pytest.mark.parametrize(
    ("text", "setting"),
    [("a=1", ("a", 1)), ("a.b=[1, 2]", ("a.b", [1, 2])), ("a=x=y", ("a", "x=y")), ("a=", ("a", None))],
)
def test_settings_are_yaml(text: str, setting: tuple[str, object]) -> None:
    assert parse_setting(text) == setting


def test_a_build_on_a_stack_names_the_stack_as_its_parents(
    run: Run, edits: Path, model: Path, tmp_path: Path
) -> None:
    below, lock, out = tmp_path / "below.safetensors", tmp_path / "all.stack", tmp_path / "out.safetensors"
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "{} lies in", "subject": "Ys", "target_new": "Kernow"}\n')
    result = run("build", "--edits", other, "--model", model, "--out", below, *QUICK)
    assert result.exit_code == 0, result.stderr
    run("stack", "init", below, "--stack", lock)
    result = run("build", "--edits", edits, "--model", model, "--on", lock, "--out", out, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert load(out).parents == (load(below).hash,)
    assert load(out).hyperparameters["on"]["protected"] == {"1": 1}
    assert run("stack", "add", out, "--stack", lock).exit_code == 0
    result = run(
        "build", "--edits", other, "--model", model, "--on", lock, "--method", "memoe",
        "--out", tmp_path / "memoe.safetensors", "--layers", "1",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "MEMoE is trained beside the bare base" in result.stderr
