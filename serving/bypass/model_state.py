"""Gets the rows from vLLM's second model runner, the default on GPUs, through its hook for models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from vllm.v1.worker.gpu.model_states import resolve_model_state_cls
from vllm.v1.worker.gpu.model_states.interface import ModelState

from moe_patch_serving.bypass.operator import registered_bypasses
from moe_patch_serving.bypass.rows import Row

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.states import RequestState


def follow_requests(model: nn.Module, vllm_config: VllmConfig) -> None:
    """Make the runner use a state for this model that tells its bypasses whose tokens it runs."""
    state = resolve_model_state_cls(vllm_config, model)  # what the model would have had
    followed = type(f"Followed{state.__name__}", (_Followed, state), {})
    model.get_model_state_cls = lambda: followed  # type: ignore[assignment]  # a module may have more than modules


class _Followed(ModelState):
    """Mixed in before a model's own state.

    The runner also removes preempted requests. It adds them again when they resume from their first token.
    Their decisions are then made again, from the same states.
    """

    def __init__(self, vllm_config: VllmConfig, *arguments: Any, **named: Any) -> None:
        super().__init__(vllm_config, *arguments, **named)
        self._served = registered_bypasses(vllm_config)
        self._prompts: dict[str, int] = {}  # lengths by request

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        self._prompts[new_req_data.req_id] = new_req_data.prompt_len

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self._prompts.pop(req_id, None)
        for served in self._served:
            served.decisions.drop([req_id])

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        rows = list(self._rows(input_batch))
        for served in self._served:
            served.begin(lambda: rows)
        return super().prepare_inputs(input_batch, req_states)  # type: ignore[safe-super]  # the model's own

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        for served in self._served:
            served.begin(tuple)
        return super().prepare_dummy_inputs(num_reqs, num_tokens)  # type: ignore[safe-super]  # the model's own

    def _rows(self, batch: InputBatch) -> Iterator[Row]:
        """The batch's rows. A warm-up batch has requests that were never added: they get no rows."""
        for place, request in enumerate(batch.req_ids):
            if request in self._prompts:
                start, stop = map(int, batch.query_start_loc_np[place : place + 2])
                computed = int(batch.num_computed_tokens_np[place])
                yield Row(request, start, stop - start, computed, self._prompts[request])
