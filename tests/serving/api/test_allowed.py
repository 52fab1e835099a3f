"""Where live patches may come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api.allowed import parse_allowed
from moe_patch_serving.errors import NoSuchPatch, PlaceNotAllowed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An allowed folder with a file in it, and one beside it that is not allowed."""
    (tmp_path / "home" / "below").mkdir(parents=True)
    (tmp_path / "home" / "below" / "patch").touch()
    (tmp_path / "homely").mkdir()
    (tmp_path / "homely" / "patch").touch()
    return tmp_path / "home"


def test_what_lies_below_a_folder_is_found(home: Path) -> None:
    allowed = parse_allowed([str(home)])
    assert allowed.find(str(home / "below" / "patch")) == (home / "below" / "patch").resolve()
    assert allowed.find(f"{home}/below/../below/patch") == (home / "below" / "patch").resolve()


@pytest.mark.parametrize("way", ["../homely/patch", "../home/../homely/patch", "link", "folder/patch"])
def test_no_way_leads_out_of_it(home: Path, way: str) -> None:
    (home / "link").symlink_to(home.parent / "homely" / "patch")
    (home / "folder").symlink_to(home.parent / "homely")
    with pytest.raises(PlaceNotAllowed, match="in one of the folders"):
        parse_allowed([str(home)]).find(f"{home}/{way}")


def test_a_link_into_an_allowed_folder_is_followed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(home)
    assert parse_allowed([str(tmp_path / "elsewhere")]).find(str(home / "below" / "patch")).is_file()


@pytest.mark.parametrize("reference", ["below/patch", "", "/etc/passwd", "patch\0", "file:///etc/passwd"])
def test_other_texts_are_refused(home: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(PlaceNotAllowed):
        parse_allowed([str(home)]).find(reference)


def test_what_is_not_there_is_said_of_allowed_places_only(home: Path) -> None:
    with pytest.raises(NoSuchPatch):
        parse_allowed([str(home)]).find(str(home / "nothing"))
    with pytest.raises(NoSuchPatch):
        parse_allowed([str(home)]).find(str(home / "below"))  # a folder is no patch
    with pytest.raises(PlaceNotAllowed):
        parse_allowed([str(home)]).find(str(home.parent / "nothing"))
    with pytest.raises(PlaceNotAllowed, match=r"\(none\)"):
        parse_allowed([]).find(str(home / "below" / "patch"))


@pytest.mark.parametrize(
    ("prefix", "reference"),
    [
        ("hf://org", "hf://organisation/name"),
        ("hf://org/name", "hf://org/names"),
        ("hf://org/", "hf://other/name"),
    ],
)
def test_hub_prefixes_end_where_names_do(prefix: str, reference: str) -> None:
    with pytest.raises(PlaceNotAllowed, match="takes from the Hub"):
        parse_allowed([prefix]).find(reference)


@pytest.mark.parametrize("prefix", ["hf://org", "hf://org/", "hf://org/name", "hf://org/name@v1"])
def test_hub_references_that_begin_so_are_asked_for(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    pulled = Path("pulled")
    monkeypatch.setattr("moe_patch.share.hub.pull_patch", lambda reference: asked.append(reference) or pulled)
    assert parse_allowed([prefix]).find("hf://org/name@v1") == Path("pulled")
    assert asked == ["hf://org/name@v1"]


@pytest.mark.parametrize("place", ["hf://", "hf:///", "/no/such/folder"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_allowed([place])
