"""The HTTP interface of live patches: JSON in and out, errors as {"error": {code, message, details}}."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from moe_patch_serving.api.audit import Audit, note
from moe_patch_serving.api.coordinator import CompletedChange
from moe_patch_serving.api.operations import Operations
from moe_patch_serving.api.requests import (
    PREFIX,
    AddRequest,
    ReorderRequest,
    RollbackRequest,
    TokenAuthentication,
    client_of,
    read_body,
)
from moe_patch_serving.errors import LiveError, Unauthorized

Change = Coroutine[Any, Any, CompletedChange]

_running: set[asyncio.Task[CompletedChange]] = set()


async def _enter(request: Request) -> None:
    """Let in who has a token. Others are noted in the audit."""
    authentication: TokenAuthentication = request.app.state.moe_patch_authentication
    try:
        request.state.moe_patch_by = await authentication.check(request)
    except LiveError:
        with _audit(request).attempt(request.scope["route"].name, "", client_of(request)):
            raise


def _operations(request: Request) -> Operations:
    operations: Operations = request.app.state.moe_patch
    return operations


def _audit(request: Request) -> Audit:
    audit: Audit = request.app.state.moe_patch_audit
    return audit


guarded = APIRouter(prefix=PREFIX, tags=["moe_patch"], dependencies=[Depends(_enter)])
public = APIRouter(prefix=PREFIX, tags=["moe_patch"])


@guarded.get("/stack", name="list")
async def report_stack(request: Request, facts: bool = False) -> JSONResponse:
    """The server's patches; with ?facts=true each of their facts."""
    operations = _operations(request)
    await operations.coordinator.look()
    return JSONResponse(operations.report(facts=facts))


@guarded.post("/patches", name="add")
async def add_patch(request: Request) -> JSONResponse:
    """Add a patch."""

    async def add() -> CompletedChange:
        body = await read_body(request, AddRequest)
        note(patch=body.path)
        allowed = {"allow_large": body.allow_large, "allow_conflicts": body.allow_conflicts}
        return await _operations(request).add(body.path, body.position, body.self_test.test(), **allowed)

    return await _made(request, add, 201)


@guarded.delete("/patches/{identifier}", name="remove")
async def remove_patch(request: Request, identifier: str) -> JSONResponse:
    """Remove a patch."""

    async def remove() -> CompletedChange:
        note(patch=identifier)
        return await _operations(request).remove(identifier)

    return await _made(request, remove)


@guarded.post("/reorder", name="reorder")
async def reorder_patches(request: Request) -> JSONResponse:
    """Put all patches into another order."""

    async def reorder() -> CompletedChange:
        body = await read_body(request, ReorderRequest)
        note(patch=", ".join(body.patches))
        return await _operations(request).reorder(body.patches)

    return await _made(request, reorder)


@guarded.post("/rollback", name="rollback")
async def rollback_change(request: Request) -> JSONResponse:
    """Undo the last change."""

    async def rollback() -> CompletedChange:
        body = await read_body(request, RollbackRequest)
        return await _operations(request).rollback(body.self_test.test())

    return await _made(request, rollback)


@public.get("/ready")
async def report_ready(request: Request) -> JSONResponse:
    """For probes, without a token: 200 if the weights are good and have the ?version=... given, if any."""
    coordinator = _operations(request).coordinator
    wanted = request.query_params.get("version")
    good = coordinator.agree and wanted in {None, coordinator.version}
    content = {"ready": good, "version": coordinator.version}
    return JSONResponse(content, status_code=200 if good else 503)


async def _made(request: Request, change: Callable[[], Change], status: int = 200) -> JSONResponse:
    """Finish a change, and note it in the audit, even if its client disconnects."""

    async def noted() -> CompletedChange:
        by, operation = request.state.moe_patch_by, request.scope["route"].name
        with _audit(request).attempt(operation, by, client_of(request)):
            return await change()

    task = asyncio.create_task(noted())
    _running.add(task)  # the event loop holds only weak references to tasks
    task.add_done_callback(_running.discard)
    done = await asyncio.shield(task)
    return JSONResponse(done.to_json() | {"stack": _operations(request).report()}, status_code=status)


async def as_json(request: Request, error: Exception) -> JSONResponse:
    """The response for an error."""
    assert isinstance(error, LiveError)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    content = {"error": {"code": error.code, "message": str(error), "details": error.details}}
    return JSONResponse(content, status_code=error.status, headers=headers)
