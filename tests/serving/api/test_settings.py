"""What the environment tells a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api.settings import Patience, read_settings


def test_nothing_said_means_nobody_may() -> None:
    settings = read_settings({})
    assert (settings.tokens, settings.allowed.folders, settings.allowed.hub) == ((), (), ())


def test_places_stand_one_on_a_line(tmp_path: Path) -> None:
    allowed = read_settings({"MOE_PATCH_ALLOW": f"{tmp_path}\nhf://org\n"}).allowed
    assert (allowed.folders, allowed.hub) == ((tmp_path.resolve(),), ("hf://org",))


@pytest.mark.parametrize("name", ["MOE_PATCH_DRAIN_SECONDS", "MOE_PATCH_SELF_TEST_SECONDS"])
@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_wait_that_is_none(name: str, seconds: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a number of seconds above 0"):
        read_settings({name: seconds})


def test_waits() -> None:
    waits = {"MOE_PATCH_DRAIN_SECONDS": "2.5", "MOE_PATCH_SELF_TEST_SECONDS": "2"}
    assert read_settings(waits).patience == Patience(drain=2.5, self_test=2)
