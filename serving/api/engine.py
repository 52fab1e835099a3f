"""What a change of patches needs of vLLM: hold requests back, call all workers, name the weights, ask.

Everything goes through `EngineClient`, which vLLM's own HTTP handlers use too. So vLLM's developer mode is
not needed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from moe_patch import errors
from moe_patch.data.reader import Reader
from moe_patch.errors import MoePatchError
from moe_patch_serving.api.gate import Gate
from moe_patch_serving.api.sampling import greedy, sampling_settings
from moe_patch_serving.errors import NotDrained, PrefixesKept

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.engine.protocol import EngineClient


@dataclass(frozen=True, slots=True)
class BaseState:
    """What a worker knows of the base; `moe_patch_serving.served_base` describes the fields."""

    state: str
    share: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The state of one worker; `moe_patch_serving.worker.extension` describes the fields."""

    patches: tuple[str, ...]
    loaded: tuple[str, ...]
    bytes_kept: int
    layers: tuple[int, ...]
    weights: str
    base: BaseState


class Engine:
    """A running vLLM engine, as far as live patches need it."""

    def __init__(self, client: EngineClient) -> None:
        self._client, self._gate = client, Gate(client)
        self._requests = 0

    @property
    def tokenizer(self) -> Any:
        """The served model's tokenizer."""
        return self._client.renderer.get_tokenizer()

    @property
    def reader(self) -> Reader:
        """How the served model reads text; `room` is checked elsewhere."""
        return Reader(self.tokenizer, rows=self._client.model_config.get_vocab_size())

    @property
    def room(self) -> int:
        """The greatest number of tokens of a prompt and its answer together."""
        return self._client.model_config.max_model_len

    @cached_property
    def sampling(self) -> dict[str, JsonValue]:
        """The server's settings that change what is said after a prompt."""
        return sampling_settings(self._client.vllm_config)

    async def hold_back(self, seconds: float) -> None:
        """Let clients' requests wait, and those that run end. Only `decode` is answered from then on.

        Raises:
            NotDrained: requests did not end in time; they and others go on as before.
        """
        try:
            await self._gate.close(seconds)
        except TimeoutError:
            raise NotDrained(
                f"requests under way did not end within {seconds:g} s, and nothing was changed: try again "
                "later, or limit max_tokens"
            ) from None

    def let_in(self) -> None:
        """Accept clients' requests again."""
        self._gate.open()

    def on_entering(self, call: Callable[[], None]) -> None:
        """Call a function whenever a client's request gets in, in the context of that request."""
        self._gate.entered = call

    def refuse(self, reason: str) -> None:
        """Answer clients' requests with an error from now on."""
        self._gate.refuse(reason)

    async def pause(self) -> None:
        """Stop the engine, which has no requests but those of a self-test, and clear its caches."""
        await self._client.pause_generation(mode="abort", clear_cache=True)

    async def call(self, method: str, *arguments: Any) -> list[WorkerState]:
        """Call a method of `PatchWorker` on all workers. Returns their states, in rank order.

        Raises:
            MoePatchError: the error that a worker answered with. Other workers may have done the work.
        """
        answers = await self._client.collective_rpc(method, args=arguments)
        for rank, answer in enumerate(answers):
            if "error" in answer:
                raise _error(answer["error"], rank, len(answers))
        return [_state(answer) for answer in answers]

    async def try_call(self, method: str, *arguments: Any) -> None:
        """Call a method on all workers, and ignore their errors."""
        await self._client.collective_rpc(method, args=arguments)

    async def name_weights(self, version: str) -> None:
        """Clear the prefix cache, which other weights filled, and set the version of the present weights.

        Raises:
            PrefixesKept: the engine does not clear its cache.
        """
        if not await self._client.reset_prefix_cache(reset_connector=True):
            raise PrefixesKept("the engine could not forget cached prefixes, which other weights computed")
        await self._client.update_weight_version(version)

    async def resume(self) -> None:
        """Let the engine run again."""
        await self._client.resume_generation()

    async def weight_version(self) -> str:
        """The version of the weights that the engine reports."""
        return await self._client.get_weight_version()

    async def likelihood(self, ids: Sequence[int], first: int) -> float:
        """The mean log-probability of the tokens from `first` on, while others wait or not."""
        async for output in self._ask(ids, greedy(1, prompt_logprobs=0)):
            found: Any = output.prompt_logprobs
            values: list[float] = [found[place][ids[place]].logprob for place in range(first, len(ids))]
        return sum(values) / len(values)

    async def decode(self, prompt: Sequence[int], length: int) -> list[int]:
        """The next `length` tokens after `prompt`, by greedy decoding, while others wait too."""
        outputs = self._ask(prompt, greedy(length))
        return [token async for output in outputs for token in output.outputs[0].token_ids]

    def _ask(self, prompt: Sequence[int], sampling: SamplingParams) -> AsyncGenerator[RequestOutput, None]:
        """One request past the gate."""
        self._requests += 1
        request = f"moe-patch-self-test-{self._requests}"
        return self._gate.generate({"prompt_token_ids": list(prompt)}, sampling, request)


def _error(answer: dict[str, str], rank: int, ranks: int) -> MoePatchError:
    """The error that a worker answered with, in its original class."""
    kind = getattr(errors, answer["type"], MoePatchError)
    where = f"worker {rank} of {ranks}: " if ranks > 1 else ""
    if not (isinstance(kind, type) and issubclass(kind, MoePatchError)) or kind is errors.FactError:
        kind = MoePatchError
    return kind(f"{where}{answer['message']}")


def _state(answer: dict[str, Any]) -> WorkerState:
    return WorkerState(
        patches=tuple(answer["patches"]),
        loaded=tuple(answer["loaded"]),
        bytes_kept=answer["bytes_kept"],
        layers=tuple(answer["layers"]),
        weights=answer["weights"],
        base=BaseState(**answer["base"]),
    )
