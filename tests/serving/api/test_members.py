"""How clients name patches that are on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moe_patch.patch.member import Member
from moe_patch_serving.api.members import PatchFile, find_served_member, served_member
from moe_patch_serving.errors import Conflict, NoSuchPatch
from tests.patch.patches import delta_patch

ONE = Member("capitals", PatchFile("sha256:" + "a" * 64, "/one", "/store/a", "moeedit", 3))
TWO = Member("rivers", PatchFile("sha256:" + "a" * 10 + "b" * 54, "/two", "/store/b", "moeedit", 3))


@pytest.mark.parametrize(
    "identifier", [TWO.hash, TWO.hash[7:], "aaaaaaaaaab", "sha256:aaaaaaaaaab", "rivers"]
)
def test_a_hash_its_beginning_or_a_name(identifier: str) -> None:
    assert find_served_member([ONE, TWO], identifier) is TWO


@pytest.mark.parametrize("identifier", ["aaaaaaa", "river", "", "sha256:", "/two"])
def test_less_than_that_names_nothing(identifier: str) -> None:
    with pytest.raises(NoSuchPatch, match="on are: capitals, rivers"):
        find_served_member([ONE, TWO], identifier)


def test_what_could_be_two_is_refused() -> None:
    with pytest.raises(Conflict, match="could be any of"):
        find_served_member([ONE, TWO], "aaaaaaaaaa")
    with pytest.raises(Conflict, match="could be any of"):
        find_served_member([ONE, replace(TWO, name="capitals")], "capitals")


def test_a_member_is_called_as_its_file_or_its_repository(tmp_path: Path) -> None:
    patch, path, stored = delta_patch(), tmp_path / "patch.safetensors", tmp_path / "stored"
    assert served_member(patch, path, str(path), stored).name == "patch"
    assert served_member(patch, path, "hf://org/capitals@v2", stored).name == "capitals"
    assert served_member(patch, path, "hf://org/all/capitals.v1.safetensors@v2", stored).name == "capitals.v1"
