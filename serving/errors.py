"""What can go wrong with a change to a running server, as its clients see it."""

# ruff: noqa: N818  errors are named for what is wrong, as those of moe_patch are

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from moe_patch.errors import MoePatchError


class LiveError(MoePatchError):
    """A request that was not carried out, or a change that was taken back.

    `code` is stable and for programs, `status` is the HTTP status, `details` is more for programs.
    """

    code = "failed"
    status = 500

    def __init__(self, message: str, details: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class Unauthorized(LiveError):
    """There is no bearer token, or not the right one."""

    code, status = "unauthorized", 401


class SwitchedOff(LiveError):
    """The server was started without a token, so that nobody may change it."""

    code, status = "switched_off", 403


class PlaceNotAllowed(LiveError):
    """The patch lies outside the folders and Hub names that the server was started with."""

    code, status = "place_not_allowed", 403


class NoSuchPatch(LiveError):
    """The server has no such patch on, or there is no such file."""

    code, status = "no_such_patch", 404


class Busy(LiveError):
    """Another change is under way."""

    code, status = "busy", 409


class Conflict(LiveError):
    """The request does not fit what is on the server."""

    code, status = "conflict", 409


class BodyTooLarge(LiveError):
    """The request's body is longer than any that makes sense."""

    code, status = "body_too_large", 413


class BadRequest(LiveError):
    """The request is not what this route takes."""

    code, status = "bad_request", 400


class PatchRefused(LiveError):
    """The file is no good patch, or not for this base; `details.reason` names the error of moe_patch."""

    code, status = "patch_refused", 422


class SelfTestFailed(LiveError):
    """The server did not say what the patch's facts say, and is back where it was."""

    code, status = "self_test_failed", 422


class NotDrained(LiveError):
    """Requests that were under way did not end in time; nothing was changed."""

    code, status = "not_drained", 503


class PrefixesKept(LiveError):
    """The engine did not forget cached prefixes; the weights are what they were."""

    code, status = "prefixes_kept", 503


class WorkersDisagree(LiveError):
    """Workers hold different weights and could not be brought back: the server has to be started again."""

    code, status = "workers_disagree", 500
