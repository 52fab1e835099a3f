"""Gets the rows from vLLM's first model runner, which serves CPUs and what the second does not support.

It has no hook for plugins, so its public `execute_model` is wrapped, once in a worker process that runs a
bypass. Runners without a bypass work as before.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from moe_patch_serving.bypass.operator import registered_bypasses
from moe_patch_serving.bypass.rows import Row, rows_of

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


@cache
def follow_requests() -> None:
    """Tell the bypasses of every runner in this process whose tokens it runs, and which requests ended."""
    execute_model = GPUModelRunner.execute_model

    @wraps(execute_model)
    def followed(
        runner: GPUModelRunner, scheduler_output: SchedulerOutput, *arguments: Any, **named: Any
    ) -> Any:
        with ExitStack() as stack:
            for served in registered_bypasses(runner.vllm_config):
                # one step may end an id and start it again as another request: drop what ended first
                served.decisions.drop(scheduler_output.finished_req_ids)
                stack.enter_context(served.step(lambda: _rows(runner, scheduler_output)))
            return execute_model(runner, scheduler_output, *arguments, **named)

    GPUModelRunner.execute_model = followed  # type: ignore[method-assign, assignment]


def _rows(runner: GPUModelRunner, scheduler_output: SchedulerOutput) -> list[Row]:
    """The runner's present batch. Call this only within its forward pass."""
    batch = runner.input_batch
    return rows_of(
        batch.req_ids,
        scheduler_output.num_scheduled_tokens,
        batch.num_computed_tokens_cpu.tolist(),
        batch.num_prompt_tokens.tolist(),
    )
