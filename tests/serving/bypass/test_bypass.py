"""Bypass patches on real engines: transformers' tokens, whatever vLLM does to requests and their pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.config import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

import moe_patch
from moe_patch.errors import BypassError, ConfigError, ModelError, WrongBase
from moe_patch_serving.bypass.decisions import Decisions
from moe_patch_serving.bypass.flags import NO_CHUNKS, NO_PREFIX_CACHE
from moe_patch_serving.bypass.install import prepare_bypass, served_block
from moe_patch_serving.bypass.limits import check_limits
from moe_patch_serving.bypass.rows import Row, rows_of
from moe_patch_serving.launch.command import Serving
from tests.bypass.bypasses import config, random_bypass
from tests.serving.bypasses import bypass_patch, expected, serve
from tests.serving.engines import PROMPTS, TOKENS, Engine, base, folder, greedy, served, start
from tests.serving.load.test_loader import about, stack_of
from tests.tiny import tiny_patch

IN_PIECES: dict[str, Any] = {"max_num_batched_tokens": 16, "max_num_seqs": 4}
WHOLE: dict[str, Any] = {"enable_chunked_prefill": False}


def kept(engine: Engine) -> dict[str, Any]:
    """What its one bypass keeps, after vLLM has told its worker of the requests that ended."""
    engine.llm.llm_engine.step()
    (state,) = engine.rpc("bypasses")["bypasses"]
    return state


def run(engine: Engine, requests: dict[str, list[int]], steps: int | None = None) -> dict[str, list[int]]:
    """Add requests, go some steps, or until all are finished; the tokens of those that are."""
    core = engine.llm.llm_engine
    for name, prompt in requests.items():
        settings = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        core.add_request(name, {"prompt_token_ids": prompt}, settings)
    done: dict[str, list[int]] = {}
    while core.has_unfinished_requests() and steps != 0:
        done |= {out.request_id: list(out.outputs[0].token_ids) for out in core.step() if out.finished}
        steps = None if steps is None else steps - 1
    return done


@pytest.mark.parametrize("model", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_prompts_in_pieces_get_the_tokens_of_transformers(model: str, tmp_path: Path) -> None:
    patch = bypass_patch(model, tokens="last")
    engine = serve(model, patch, tmp_path, **IN_PIECES)
    assert engine.greedy() == expected(model, patch)
    assert [a == b for a, b in zip(engine.greedy(), greedy(base(model)), strict=True)].count(False) >= 2
    assert kept(engine)["requests"] == kept(engine)["bytes_kept"] == 0


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"router": "mlp"},
        {"router": "published", "merge": "weighted", "top_k": 2},
        {"router": "published", "attention_width": 8, "merge": "soft"},
    ],
    ids=str,
)
def test_whole_prompts_get_the_tokens_of_transformers(kind: dict[str, Any], tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", strength=0.5, tokens="all", **kind)
    engine = serve("qwen3_moe", patch, tmp_path, **WHOLE)
    assert engine.greedy() == expected("qwen3_moe", patch) != greedy(base("qwen3_moe"))
    assert kept(engine)["requests"] == 0


@pytest.mark.parametrize("merge", ["weighted", "soft"])
def test_merged_experts_get_the_tokens_of_transformers_in_pieces(merge: str, tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", tokens="last", merge=merge)
    engine = serve("qwen3_moe", patch, tmp_path, **IN_PIECES)
    assert engine.greedy() == expected("qwen3_moe", patch) != greedy(base("qwen3_moe"))
    assert kept(engine)["requests"] == kept(engine)["bytes_kept"] == 0


@pytest.mark.parametrize(("tokens", "options"), [("last", IN_PIECES), ("all", WHOLE)])
def test_preempted_requests_go_on_as_they_began(tokens: str, options: Any, tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", strength=0.5, tokens=tokens)
    room = {"num_gpu_blocks_override": 6, "max_model_len": 64, "disable_log_stats": False}
    engine = serve("qwen3_moe", patch, tmp_path, **options | room)
    prompts = [PROMPTS[4], PROMPTS[4][::-1], PROMPTS[3], PROMPTS[3][::-1]]
    before = _preemptions(engine)
    assert engine.greedy(prompts) == expected("qwen3_moe", patch, prompts)
    assert _preemptions(engine) > before
    assert kept(engine)["requests"] == 0


def _preemptions(engine: Engine) -> float:
    return next(m.value for m in engine.llm.get_metrics() if m.name == "vllm:num_preemptions")


def test_aborted_requests_leave_nothing_behind(tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", tokens="last")
    engine = serve("qwen3_moe", patch, tmp_path, **IN_PIECES)
    answers = expected("qwen3_moe", patch)
    run(engine, {"a": PROMPTS[4], "b": PROMPTS[0]}, steps=1)
    (state,) = engine.rpc("bypasses")["bypasses"]
    assert state["requests"] >= 1
    assert state["bytes_kept"] == 16 * 32 * 4  # of the longer prompt: what fits a step, d_m wide, in fp32
    engine.llm.llm_engine.abort_request(["a"])
    assert run(engine, {"a": PROMPTS[2]}) == {"a": answers[2], "b": answers[0]}  # an id may come again
    run(engine, {"c": PROMPTS[4]}, steps=6)
    engine.llm.llm_engine.abort_request(["c"])
    assert kept(engine)["requests"] == kept(engine)["bytes_kept"] == 0


def test_a_prompt_that_is_left_alone_gets_exactly_the_base(tmp_path: Path) -> None:
    engine = serve("qwen3_moe", bypass_patch("qwen3_moe", alone=True), tmp_path, **WHOLE)
    settings = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=3)
    asked: Any = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found, wanted = (
        [out.outputs[0].logprobs for out in one.llm.generate(asked, settings, use_tqdm=False)]
        for one in (engine, served("qwen3_moe"))
    )
    assert found == wanted


def test_a_stack_may_hold_deltas_and_a_bypass(tmp_path: Path) -> None:
    patches = [
        about("A", tiny_patch(base("qwen3_moe"), [0, 2], seed=1)),
        bypass_patch("qwen3_moe", tokens="last"),
    ]
    extra = {"stack": str(stack_of(tmp_path, *patches))}
    loading = {"load_format": "moe_patch", "model_loader_extra_config": extra}
    engine = start("qwen3_moe", **loading, enable_prefix_caching=False, **IN_PIECES)
    with moe_patch.apply(base("qwen3_moe"), patches[0]):
        assert engine.greedy() == expected("qwen3_moe", patches[1])
    assert engine.rpc("state")["loaded"] == [patch.hash for patch in patches]


@pytest.mark.slow
def test_compiled_code_has_the_bypass_in_it_too(tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", tokens="last")
    engine = serve("qwen3_moe", patch, tmp_path, enforce_eager=False, **IN_PIECES)
    assert engine.greedy() == expected("qwen3_moe", patch)


def test_compiled_code_with_a_bypass_has_another_name_in_the_cache() -> None:
    options = {"enable_prefix_caching": False, "max_model_len": 64}
    plain, one, other = (
        EngineArgs(str(folder("qwen3_moe")), **options).create_engine_config() for _ in range(3)
    )
    prepare_bypass(bypass_patch("qwen3_moe", tokens="last"), one)
    prepare_bypass(bypass_patch("qwen3_moe", tokens="last", layer=2), other)
    assert len({config.compute_hash() for config in (plain, one, other)}) == 3


def test_a_patch_for_another_base_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(WrongBase, match="built for"):
        serve("mixtral", bypass_patch("qwen3_moe", tokens="last"), tmp_path)


def test_an_engine_with_a_prefix_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--no-enable-prefix-caching"):
        serve("qwen3_moe", bypass_patch("qwen3_moe", tokens="last"), tmp_path, enable_prefix_caching=True)


@pytest.mark.parametrize(
    ("bypass", "options", "remedy"),
    [
        ({}, {"enable_prefix_caching": True}, "--no-enable-prefix-caching"),
        ({"tokens": "all"}, {"enable_chunked_prefill": True}, "--no-enable-chunked-prefill"),
        ({"tokens": "all"}, {"long_prefill_token_threshold": 8}, "--long-prefill-token-threshold"),
        ({"router_states": "final"}, {}, "block-input"),
        ({}, {"pipeline_parallel_size": 2}, "--pipeline-parallel-size 1"),
        ({}, {"kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
    ],
)
def test_what_could_not_be_right_is_refused(bypass: Any, options: Any, remedy: str) -> None:
    settings = {"enable_prefix_caching": False, "max_model_len": 64}
    engine_config = EngineArgs(str(folder("qwen3_moe")), **settings | options).create_engine_config()
    with pytest.raises(ConfigError, match=remedy):
        check_limits(config(**{"tokens": "last"} | bypass), engine_config)


def test_cuda_graphs_are_refused() -> None:
    engine_config = EngineArgs(str(folder("qwen3_moe")), enable_prefix_caching=False).create_engine_config()
    check_limits(config(tokens="last"), engine_config)  # on CPUs there are none, also in compiled code
    engine_config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
    with pytest.raises(ConfigError, match="--enforce-eager"):
        check_limits(config(tokens="last"), engine_config)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_the_serve_command_says_what_a_bypass_needs(tokens: str, tmp_path: Path) -> None:
    stack = stack_of(tmp_path, bypass_patch("qwen3_moe", tokens=tokens))
    command = Serving(str(folder("qwen3_moe")), stack).command()
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    options = command[command.index("serve") + 1 :]
    options[0] = f"--model={options[0]}"
    options.remove("--api-server-count")
    options.remove("1")  # which is the server's, and not the engine's
    engine_config = EngineArgs.from_cli_args(parser.parse_args(options)).create_engine_config()
    check_limits(config(tokens=tokens), engine_config)
    (tmp_path / "bare").mkdir()
    bare = Serving(str(folder("qwen3_moe")), stack_of(tmp_path / "bare", tiny_patch(base("qwen3_moe"))))
    assert not {NO_PREFIX_CACHE, NO_CHUNKS} & set(bare.command())


def test_a_layer_without_experts_has_no_block() -> None:
    with pytest.raises(ModelError, match="layer 7 of Qwen3Moe"):
        served_block(served("qwen3_moe").model, 7)


def test_rows_say_where_the_prompts_and_the_acting_tokens_are() -> None:
    counts = {"a": 4, "b": 3, "c": 1}
    first, second, third = rows_of(["b", "a", "c"], counts, computed=[2, 0, 9], prompts=[4, 9, 5])
    assert (first.start, second.start, third.start) == (0, 3, 7)
    assert [row.of_prompt() for row in (first, second, third)] == [slice(0, 2), slice(3, 7), slice(7, 7)]
    last, whole = config(tokens="last"), config(tokens="all")
    assert [list(row.acting(last)) for row in (first, second, third)] == [[1, 2], [], [7]]
    assert [list(row.acting(whole)) for row in (first, second, third)] == [[0, 1, 2], [3, 4, 5, 6], [7]]


def test_a_request_that_was_not_seen_from_its_first_token_is_refused() -> None:
    decisions = Decisions(random_bypass())
    with pytest.raises(BypassError, match="request a came with 3 tokens"):
        decisions.route(Row("a", start=0, count=2, computed=3, prompt=5), torch.zeros(2, 32))


def test_a_prompt_that_starts_again_is_not_counted_twice() -> None:
    decisions, x = Decisions(random_bypass()), torch.randn(6, 32)
    first = Row("a", start=0, count=4, computed=0, prompt=6)
    assert decisions.route(first, x) is decisions.route(first, x) is None
    assert decisions.bytes_kept == 4 * 32 * 4
    route = decisions.route(Row("a", start=4, count=2, computed=4, prompt=6), x)
    assert route == int(random_bypass().route(x[None], torch.ones(1, 6, dtype=torch.bool)))
    assert (decisions.bytes_kept, decisions.requests) == (0, 1)
    decisions.drop(["a", "unknown"])
    assert decisions.requests == 0


def test_two_engines_do_not_see_each_others_requests(tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", tokens="last")
    engine = serve("qwen3_moe", patch, tmp_path, **IN_PIECES)
    run(engine, {"a": PROMPTS[4]}, steps=1)
    assert served("qwen3_moe").greedy() == greedy(base("qwen3_moe"))  # the same wrapped runner, no bypass
    assert run(engine, {}) == {"a": expected("qwen3_moe", patch)[4]}
