"""One message to a model behind an endpoint that speaks OpenAI's chat completions, and its reply.

It is asked with Python's own HTTP client: the Hub's sends the Hub's token where there is no key, and reaches
no local server in offline mode.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from moe_patch.errors import ConfigError, JudgeError
from moe_patch.io.no_redirects import NoRedirects

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
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"{self.url}: expected a judge's address such as http://localhost:8000/v1")
        if not self.model.strip():
            raise ConfigError("a judge needs the name of a model")

    def ask(self, message: str) -> str:
        """The model's reply to a message, at temperature 0.

        Raises:
            JudgeError: the endpoint cannot be reached, refuses, or sends no completion.
        """
        asked = {"messages": [{"role": "user", "content": message}], "model": self.model}
        body = json.dumps(asked | {"temperature": 0, "max_tokens": _MOST_TOKENS}).encode()
        raw = self._post(body)
        try:
            return _Completion.model_validate_json(raw).choices[0].message.content
        except ValidationError as error:
            raise self._failed("it sends no chat completion with a text") from error

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, method="POST")
        request.add_header("Content-Type", "application/json")
        if self.key is not None:
            request.add_header("Authorization", f"Bearer {self.key}")
        opener = urllib.request.build_opener(NoRedirects())
        for wait in range(_TRIES):
            try:
                with opener.open(request, timeout=self.seconds) as answer:
                    return bytes(answer.read(_MOST_BYTES))
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or wait == _TRIES - 1:
                    raise self._failed(f"it answers {error.code} {error.reason}") from error
                time.sleep(2**wait)
            except (OSError, HTTPException) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise self._failed(f"it cannot be reached: {reason}") from error
        raise AssertionError("the last try returns or raises")

    def _failed(self, problem: str) -> JudgeError:
        return JudgeError(f"the judge {self.model} at {self.url}: {problem}")
