"""One name means one model everywhere, and a Hub that does not answer costs no time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import hf_hub_download

from moe_patch.errors import ModelError
from moe_patch.io.model_place import ModelPlace, find_model, recorded_model
from moe_patch.io.shipped import demo_model
from tests.share.hub_server import Hub
from tests.share.test_hub import point_to
from tests.stand_in import answering

NAME = "org/model"
SHORT = 2.0  # seconds that a name may take that leads nowhere; a retry alone takes longer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with answering(Hub()) as server:
        point_to(server.url, monkeypatch)
        yield server


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_demo_model_has_a_name_which_a_folder_can_take_but_not_in_a_record() -> None:
    assert find_model(None) == find_model("atlas") == ModelPlace("atlas", demo_model())
    Path("atlas").mkdir()
    assert find_model("atlas") == ModelPlace("atlas", Path("atlas"))
    assert recorded_model("atlas") == ModelPlace("atlas", demo_model())


def test_a_record_finds_its_model_from_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine").mkdir()
    recorded = [find_model(name).recorded for name in ("mine", "atlas", None)]
    recorded.append(ModelPlace(NAME, Path("snapshots/1")).recorded)
    assert recorded == [str(Path("mine").absolute()), "atlas", "atlas", NAME]
    there = Path("mine").absolute()
    monkeypatch.chdir(tmp_path)
    assert recorded_model(recorded[0]).folder == there


@pytest.mark.parametrize("name", ["./gone", "gone/", "/gone", "a/b/c", "~/gone", "../gone", Path("gone")])
def test_what_can_only_be_a_folder_is_not_asked_of_the_hub(hub: Hub, name: str | Path) -> None:
    with pytest.raises(ModelError, match=r"there is no such folder$"):
        find_model(name)
    assert hub.seen == []


def test_a_misspelt_folder_is_told_of_the_one_beside_it() -> None:
    Path("qwen-moe").mkdir()
    with pytest.raises(ModelError, match="did you mean 'qwen-moe'"):
        find_model("./qwen_moe")


def test_a_file_and_an_impossible_name_are_one_line() -> None:
    Path("config.json").touch()
    with pytest.raises(ModelError, match="it is a file; name its folder"):
        find_model("config.json")
    for name in ("", "a b", "a" * 300, "x\0y", "--"):
        with pytest.raises(ModelError, match="cannot open the model"):
            find_model(name)


def test_what_the_hub_has_is_left_to_be_fetched(hub: Hub) -> None:
    hub.put(NAME, {"config.json": b"{}"})
    assert find_model(NAME) == ModelPlace(NAME, None)
    with pytest.raises(ModelError, match=r"no such model on the Hub that you may see"):
        find_model("org/none")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"was not fetched before, and the Hub cannot be reached \("):
        find_model(NAME)
    assert time.monotonic() - begun < SHORT


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_the_hub_what_was_fetched_is_taken(
    hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(NAME, {"config.json": b"{}"})
    fetched = Path(hf_hub_download(NAME, "config.json"))
    if how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        point_to("http://127.0.0.1:9", monkeypatch)
    found = find_model(NAME)
    assert found == ModelPlace(NAME, fetched.parent)
    assert found.recorded == NAME
    with pytest.raises(ModelError, match="was not fetched before"):
        find_model("org/other")


def test_offline_a_misspelt_demo_model_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"\$HF_HUB_OFFLINE says not to ask the Hub; did you mean 'atlas'"):
        find_model("altas")
