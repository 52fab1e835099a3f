"""What clients send: a token in the header, and a small JSON object in the body."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import Field, ValidationError

from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch_serving.api.self_test import DEFAULT, SelfTest
from moe_patch_serving.api.tokens import Token
from moe_patch_serving.errors import BadRequest, BodyTooLarge, SwitchedOff, Unauthorized

logger = logging.getLogger("vllm.moe_patch")

MAX_BODY_BYTES = 64 * 1024

GUESSES = 8
"""How many requests with a wrong token are answered at a time, each after `GUESS_SECONDS`."""

GUESS_SECONDS = 0.5

PREFIX = "/moe_patch"
"""Where all routes begin."""

Text = Annotated[str, Field(min_length=1, max_length=4096)]


class SelfTestRequest(ClosedSchema):
    """The self-test of a change: how many facts to ask, and the share that must be answered correctly.

    With `unproved`, none need to be: the patch may have no facts at all.
    """

    facts: Annotated[int, Field(ge=1, le=1024)] = DEFAULT.facts
    share: Annotated[float, Field(gt=0, le=1)] = DEFAULT.share
    unproved: bool = False

    def test(self) -> SelfTest:
        """The self-test that this describes."""
        return SelfTest(self.facts, self.share, self.unproved)


class AddRequest(ClosedSchema):
    """A patch to add: an absolute path on the server, or `hf://org/name@revision`."""

    path: Text
    position: Annotated[int, Field(ge=1, le=2**31)] | None = None
    allow_large: bool = False
    allow_conflicts: bool = False
    self_test: SelfTestRequest = SelfTestRequest()


class ReorderRequest(ClosedSchema):
    """All live patches in their new order, the lowest first."""

    patches: Annotated[list[Text], Field(max_length=1024)]


class RollbackRequest(ClosedSchema):
    """The self-test for patches that a rollback restores."""

    self_test: SelfTestRequest = SelfTestRequest()


Body = TypeVar("Body", bound=ClosedSchema)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Parse a request's body as `kind`. An empty body counts as an empty object.

    Raises:
        BodyTooLarge: the body is longer than `MAX_BODY_BYTES`, whatever its header says.
        BadRequest: the body is not strict JSON, or does not have the form of `kind`.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        value = strict_json.parse_json(raw.decode()) if raw else {}
        return kind.model_validate(value)
    except ValidationError as error:
        raise BadRequest(strict_json.first_complaint(error)) from error
    except ValueError as error:  # includes UnicodeDecodeError
        raise BadRequest(f"the body is not strict JSON: {error}") from error


class TokenAuthentication:
    """Checks bearer tokens, in constant time. Wrong ones are answered slowly, and a few at a time."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._known = [(token.name, _digest(token.secret)) for token in tokens]
        self._guessing = asyncio.Semaphore(GUESSES)

    async def check(self, request: Request) -> str:
        """Check the token of a request, and return its name.

        Raises:
            Unauthorized: the request has no token, or a wrong one.
            SwitchedOff: the server has no token.
        """
        if not self._known:
            raise SwitchedOff("live changes are off: start the server with MOE_PATCH_TOKEN or a token file")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = _digest(token)
        # all are compared, so that the time does not tell which is the right one
        names = [name for name, known in self._known if secrets.compare_digest(sent, known)]
        if scheme.lower() != "bearer" or not names:
            await self._slow_down(request)
            raise Unauthorized("expected the header `Authorization: Bearer TOKEN` with this server's token")
        return names[0]

    async def _slow_down(self, request: Request) -> None:
        """Let a wrong token wait. The right one is never kept waiting, however many others guess."""
        async with self._guessing:
            client = client_of(request)
            logger.warning("%s %s: no token or a wrong one, from %s", request.method, PREFIX, client)
            await asyncio.sleep(GUESS_SECONDS)


def client_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "an unknown address"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
