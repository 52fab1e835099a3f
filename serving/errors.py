"""Errors of changes to a running server, as its clients see them."""

# ruff: noqa: N818  errors are named for what is wrong, as those of moe_patch are

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from moe_patch.errors import MoePatchError


class LiveError(MoePatchError):
    """A request that was not carried out, or a change that was undone.

    `code` is stable and for programs, `status` is the HTTP status, `details` has more data for programs.
    """

    code = "failed"
    status = 500

    def __init__(self, message: str, details: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class Unauthorized(LiveError):
    """The request has no bearer token, or a wrong one."""

    code, status = "unauthorized", 401


class SwitchedOff(LiveError):
    """The server was started without a token, so nobody may change it."""

    code, status = "switched_off", 403


class PlaceNotAllowed(LiveError):
    """The patch lies outside the folders and Hub names that the server was started with."""

    code, status = "place_not_allowed", 403


class NoSuchPatch(LiveError):
    """The server has no such patch, or there is no such file."""

    code, status = "no_such_patch", 404


class Busy(LiveError):
    """Another change is in progress."""

    code, status = "busy", 409


class Conflict(LiveError):
    """The request does not fit the server's present patches."""

    code, status = "conflict", 409


class FactsConflict(LiveError):
    """The patch's facts do not go together with those that are on; `details.findings` says how."""

    code, status = "facts_conflict", 409


class BodyTooLarge(LiveError):
    """The request's body is longer than the limit."""

    code, status = "body_too_large", 413


class BadRequest(LiveError):
    """The request does not have the form that this route expects."""

    code, status = "bad_request", 400


class PatchRefused(LiveError):
    """The file is not a valid patch for this base; `details.reason` names the error of moe_patch."""

    code, status = "patch_refused", 422


class Unproved(LiveError):
    """The patch has no facts by which it could prove itself. Nothing was changed."""

    code, status = "unproved", 422


class SelfTestFailed(LiveError):
    """The server did not say the patch's facts, and the change was undone before any client was answered."""

    code, status = "self_test_failed", 422


class NotDrained(LiveError):
    """Running requests did not end in time. Nothing was changed."""

    code, status = "not_drained", 503


class PrefixesKept(LiveError):
    """The engine did not clear its prefix cache. The weights are as before."""

    code, status = "prefixes_kept", 503


class WorkersDisagree(LiveError):
    """Workers hold different weights, and the change could not be undone: restart the server."""

    code, status = "workers_disagree", 500
