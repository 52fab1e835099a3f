"""From vLLM's first model runner, the one for CPUs and for what the second does not support, to the rows.

It has no hook for plugins. Its public `execute_model` is therefore wrapped, once in a worker process, and
only in one that runs a bypass; for a runner without one it is as it was.
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
    """Let the bypasses of every runner in this process know whose tokens it runs, and who has ended."""
    execute_model = GPUModelRunner.execute_model

    @wraps(execute_model)
    def followed(
        runner: GPUModelRunner, scheduler_output: SchedulerOutput, *arguments: Any, **named: Any
    ) -> Any:
        with ExitStack() as stack:
            for served in registered_bypasses(runner.vllm_config):
                # an id may end and come again in one step, as another request: what ended goes first
                served.decisions.drop(scheduler_output.finished_req_ids)
                stack.enter_context(served.step(lambda: _rows(runner, scheduler_output)))
            return execute_model(runner, scheduler_output, *arguments, **named)

    GPUModelRunner.execute_model = followed  # type: ignore[method-assign, assignment]


def _rows(runner: GPUModelRunner, scheduler_output: SchedulerOutput) -> list[Row]:
    """The batch that the runner has put together; only from within its forward pass."""
    batch = runner.input_batch
    return rows_of(
        batch.req_ids,
        scheduler_output.num_scheduled_tokens,
        batch.num_computed_tokens_cpu.tolist(),
        batch.num_prompt_tokens.tolist(),
    )
