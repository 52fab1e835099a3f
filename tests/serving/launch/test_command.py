"""The vLLM command that `moe-patch serve` becomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_patch.cli import main
from moe_patch.errors import ConfigError, ModelError, PatchError
from moe_patch.stack import create_lock
from moe_patch_serving.launch import command as module
from moe_patch_serving.launch.command import Serving


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive commands on machines without vLLM too; whether it is there is for other tests."""
    monkeypatch.setattr(module, "check_vllm", lambda: None)
    monkeypatch.setattr(module, "vllm_on_cpu", lambda: False)


def adapter(folder: Path, rank: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


@pytest.mark.usefixtures("with_vllm")
def test_the_demo_model_with_a_stack(tmp_path: Path) -> None:
    stack = tmp_path / "moe-patch.stack"
    create_lock(stack)
    command = Serving(stack=stack, arguments=("--port", "8001")).command()
    assert command[:5] == [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert Path(command[5], "config.json").exists()
    assert command[-2:] == ["--port", "8001"]
    extra = command[command.index("--model-loader-extra-config") + 1]
    assert json.loads(extra) == {"stack": str(stack)}
    assert command[command.index("--load-format") + 1] == "moe_patch"
    assert command[command.index("--served-model-name") + 1] == "atlas"
    allowed = Serving(stack=stack, allow_large=True).command()
    extra = allowed[allowed.index("--model-loader-extra-config") + 1]
    assert json.loads(extra) == {"stack": str(stack), "allow_large": True}


@pytest.mark.usefixtures("with_vllm")
def test_a_folder_is_loaded_as_vllm_would(tmp_path: Path) -> None:
    command = Serving(model=str(tmp_path)).command()
    assert command[5] == str(tmp_path)
    assert not {"--load-format", "--served-model-name", "--dtype"} & set(command)


def fetched(cache: Path, revision: str) -> Path:
    """A model in a cache of the Hub's client, with a config and nothing else."""
    repository, commit = cache / "models--org--model", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


@pytest.mark.usefixtures("with_vllm")
def test_offline_what_was_fetched_is_served_under_its_name(tmp_path: Path) -> None:
    snapshot = fetched(tmp_path, "v1")
    where = (f"--download_dir={tmp_path}", "--revision", "v1")
    command = Serving(model="org/model", arguments=where).command()
    assert command[5] == str(snapshot)
    assert command[command.index("--served-model-name") + 1] == "org/model"
    assert "--dtype" not in command
    with pytest.raises(ModelError, match="was not fetched before"):  # not of this revision
        Serving(model="org/model", arguments=where[:1]).command()


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize("name", ["org/none", "altas", "./none"])
def test_a_name_that_leads_nowhere_ends_before_vllm_starts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_patch.versions.check_vllm", lambda: None)
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("vLLM was started"))
    failed = CliRunner().invoke(main, ["serve", "--model", name])
    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"Error: cannot open the model '{name}': there is no such folder")
    assert failed.stderr.count("\n") == 1


@pytest.mark.usefixtures("with_vllm")
def test_there_is_room_for_the_highest_rank_among_adapters(tmp_path: Path) -> None:
    adapters = {"a": adapter(tmp_path / "one", 5), "b": adapter(tmp_path / "two", 33)}
    command = Serving(adapters=adapters).command()
    assert command[command.index("--max-lora-rank") + 1] == "64"
    assert command[command.index("--max-loras") + 1] == "2"
    at = command.index("--lora-modules")
    assert command[at + 1 : at + 3] == [f"a={tmp_path / 'one'}", f"b={tmp_path / 'two'}"]
    with pytest.raises(PatchError, match="512 is the highest"):
        Serving(adapters={"c": adapter(tmp_path / "three", 513)}).command()


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize("rank", [0, "8", None])
def test_a_folder_that_is_no_adapter(tmp_path: Path, rank: object) -> None:
    with pytest.raises(ConfigError, match="is no adapter"):
        Serving(adapters={"a": tmp_path}).command()
    with pytest.raises(ConfigError, match="expected a rank from 1 up"):
        Serving(adapters={"a": adapter(tmp_path / "adapter", rank)}).command()


def test_patches_may_come_from_the_stacks_folder_and_what_is_named(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    serving = Serving(stack=tmp_path / "moe-patch.stack", allow=(str(tmp_path / "more"), "hf://org"))
    environment = serving.environment({"MOE_PATCH_TOKEN": "0123456789abcdef"})
    assert environment["MOE_PATCH_ALLOW"].splitlines() == [str(tmp_path / "more"), "hf://org", str(tmp_path)]
    with pytest.raises(ConfigError, match="expected a folder"):
        Serving(allow=(str(tmp_path / "none"),)).environment({})


def test_plugins_that_were_named_stay_and_others_are_not_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Serving().environment({"VLLM_PLUGINS": "mine"})["VLLM_PLUGINS"] == "mine,moe_patch"
    monkeypatch.setattr(module, "_installed_plugins", lambda: ["others", "moe_patch"])
    assert Serving().environment({})["VLLM_PLUGINS"] == "others,moe_patch"


@pytest.mark.usefixtures("with_vllm")
def test_an_engine_on_the_cpu_is_told_what_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    option = "--gpu-memory-utilization"
    assert option not in Serving().command()
    monkeypatch.setattr(module, "vllm_on_cpu", lambda: True)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    command = Serving().command()
    assert 0 < float(command[command.index(option) + 1]) <= 0.9
    assert Serving(arguments=(option, "0.5")).command().count(option) == 1


def test_live_changes_can_be_off_whatever_tokens_there_are(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    present = {"MOE_PATCH_TOKEN": "fedcba9876543210", "MOE_PATCH_TOKEN_FILE": str(file)}
    environment = Serving(live=False).environment(present)
    assert not {"MOE_PATCH_TOKEN", "MOE_PATCH_TOKEN_FILE"} & environment.keys()
    environment = Serving(token_file=file).environment(present)
    assert environment["MOE_PATCH_TOKEN_FILE"] == str(file)
    assert "MOE_PATCH_TOKEN" not in environment  # what is given by option counts
