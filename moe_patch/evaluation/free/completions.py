"""One message to a model behind an endpoint that speaks OpenAI's chat completions, and its reply.

The Hub's own client is not used: it sends the Hub's token where there is no key, and reaches no local server
in offline mode.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from moe_patch.errors import ConfigError, JudgeError
from moe_patch.io.http import is_server_address, send

_MOST_BYTES = 2**20  # of an answer
_MOST_TOKENS = 1024  # of a reply, with the thoughts before it
_BUSY = frozenset({429, 503})
_TRIES = 5  # of a request to a busy endpoint, a second apart, then two, and so on


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """A model behind an endpoint.

    Raises:
        ConfigError: the URL is none, or the model has no name.
    """

    url: str  # such as http://localhost:8000/v1
    model: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 120.0  # that a request may take

    def __post_init__(self) -> None:
        if not is_server_address(self.url):
            raise ConfigError(f"{self.url}: expected a judge's address such as http://localhost:8000/v1")
        if not self.model.strip():
            raise ConfigError("a judge needs the name of a model")

    def ask(self, message: str) -> str:
        """The model's reply to a message, at temperature 0.

        Raises:
            JudgeError: the endpoint cannot be reached, refuses, or sends no completion.
        """
        asked = {"messages": [{"role": "user", "content": message}], "model": self.model}
        raw = self._post(asked | {"temperature": 0, "max_tokens": _MOST_TOKENS})
        try:
            return _Completion.model_validate_json(raw).choices[0].message.content
        except ValidationError as error:
            raise self._failed("it sends no chat completion with a text") from error

    def _post(self, body: dict[str, Any]) -> bytes:
        address = f"{self.url.rstrip('/')}/chat/completions"
        for wait in range(_TRIES):
            try:
                answer = send(
                    "POST",
                    address,
                    seconds=self.seconds,
                    most_bytes=_MOST_BYTES,
                    token=self.key,
                    body=body,
                )
            except ConnectionError as error:
                raise self._failed(f"it cannot be reached: {error}") from error
            if answer.success:
                return answer.body
            if answer.status not in _BUSY or wait == _TRIES - 1:
                raise self._failed(f"it answers {answer.complaint}")
            time.sleep(2**wait)
        raise AssertionError("the last try returns or raises")

    def _failed(self, problem: str) -> JudgeError:
        return JudgeError(f"the judge {self.model} at {self.url}: {problem}")
