"""Differences between releases: both sides of each, whichever of them is installed."""

from __future__ import annotations

import inspect
import tomllib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.masking_utils import create_causal_mask

from moe_patch.versions import (
    DIFFERENCES,
    VLLM,
    VersionDifference,
    cache_name,
    given_cache,
    norm_follows,
    returned_cache,
    settled_layer_types,
    without_cache,
)
from tests.tiny import CONFIGS, tiny_base, tiny_batch

ROOT = Path(__file__).parent.parent


def oldest(package: str) -> Version:
    """The lower bound that the project puts on a package."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    requirements = [Requirement(line) for line in (*project["dependencies"], *optional)]
    (bound,) = {
        clause.version
        for requirement in requirements
        if requirement.name == package
        for clause in requirement.specifier
        if clause.operator == ">="
    }
    return Version(bound)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda one: f"{one.package}-{one.since}")
def test_no_branch_is_kept_for_releases_that_are_no_longer_supported(difference: VersionDifference) -> None:
    assert Version(difference.since) > oldest(difference.package), (
        f"{difference.package} is always newer than {difference.since}: remove the old branch of "
        f"{difference.what!r} from moe_patch.versions"
    )


def test_the_oldest_vllm_is_the_first_that_is_known() -> None:
    assert Version(VLLM[0]) == oldest("vllm")


def newer(ids: Any, cache: Any = None, use_cache: bool | None = None) -> None: ...


def older(ids: Any, past_key_values: Any = None, use_cache: bool | None = None) -> None: ...


def passing_on(ids: Any, **named: Any) -> None: ...


@pytest.mark.parametrize(("forward", "name"), [(newer, "cache"), (older, "past_key_values")])
def test_the_cache_goes_by_the_name_that_a_forward_takes(forward: Callable[..., None], name: str) -> None:
    assert cache_name(forward) == name
    assert cache_name(partial(forward, None)) == name
    given = {"input_ids": 1, name: "kept", "use_cache": True}
    assert given_cache(given) == "kept"
    assert without_cache(given) == {"input_ids": 1, "use_cache": True}
    assert returned_cache(SimpleNamespace(**{name: "kept"})) == "kept"


def test_no_cache_is_none() -> None:
    assert given_cache({"input_ids": 1}) is None
    assert given_cache({"cache": None, "past_key_values": None}) is None
    assert returned_cache((torch.zeros(1),)) is None
    assert returned_cache(SimpleNamespace(cache=None)) is None


def test_a_forward_that_passes_all_on_takes_what_this_release_says() -> None:
    assert cache_name(passing_on) in inspect.signature(create_causal_mask).parameters


@pytest.mark.parametrize(
    "model_type", sorted({"qwen3_moe", "gpt_oss", "qwen3_next", "deepseek_v3"} & CONFIGS.keys())
)
def test_models_take_and_return_their_cache_without_a_notice(
    model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, (ids, _) = tiny_base(model_type), tiny_batch(rows=2)
    for module in (base.model, base.decoder):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            kept = returned_cache(module(input_ids=ids, use_cache=True))
            assert kept.get_seq_length() == ids.shape[1]
            again = module(input_ids=ids[:, :1], use_cache=True, **{cache_name(module.forward): kept})
        assert returned_cache(again).get_seq_length() == ids.shape[1] + 1
    assert "deprecat" not in caplog.text


@pytest.mark.parametrize(("experts", "follows"), [({}, False), ({"has_post_expert_norm": True}, True)])
def test_before_the_flag_no_norm_follows(experts: dict[str, bool], follows: bool) -> None:
    assert norm_follows(SimpleNamespace(**experts)) is follows


@pytest.mark.parametrize("before", ["deepseek_sparse_attention", "qwen_sparse_attention"])
def test_sparse_attention_has_one_name_in_all_releases(before: str) -> None:
    assert settled_layer_types([before, "linear_attention"]) == ["indexed_attention", "linear_attention"]
