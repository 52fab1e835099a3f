"""The HTTP interface of live patches: JSON in and out, errors as {"error": {code, message, details}}."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from moe_patch_serving.api.coordinator import CompletedChange
from moe_patch_serving.api.operations import Operations
from moe_patch_serving.api.requests import (
    PREFIX,
    AddRequest,
    ReorderRequest,
    RollbackRequest,
    TokenAuthentication,
    read_body,
)
from moe_patch_serving.errors import LiveError, Unauthorized

_running: set[asyncio.Task[CompletedChange]] = set()


async def _enter(request: Request) -> None:
    authentication: TokenAuthentication = request.app.state.moe_patch_authentication
    await authentication.check(request)


def _operations(request: Request) -> Operations:
    operations: Operations = request.app.state.moe_patch
    return operations


guarded = APIRouter(prefix=PREFIX, tags=["moe_patch"], dependencies=[Depends(_enter)])
public = APIRouter(prefix=PREFIX, tags=["moe_patch"])


@guarded.get("/stack")
async def report_stack(request: Request) -> JSONResponse:
    """The server's patches."""
    operations = _operations(request)
    await operations.coordinator.look()
    return JSONResponse(operations.report())


@guarded.post("/patches")
async def add_patch(request: Request) -> JSONResponse:
    """Add a patch."""
    body = await read_body(request, AddRequest)
    operations = _operations(request)
    test = body.self_test.test()
    change = operations.add(body.path, body.position, test, allow_large=body.allow_large)
    return await _made(operations, change, 201)


@guarded.delete("/patches/{identifier}")
async def remove_patch(request: Request, identifier: str) -> JSONResponse:
    """Remove a patch."""
    operations = _operations(request)
    return await _made(operations, operations.remove(identifier))


@guarded.post("/reorder")
async def reorder_patches(request: Request) -> JSONResponse:
    """Put all patches into another order."""
    body = await read_body(request, ReorderRequest)
    operations = _operations(request)
    return await _made(operations, operations.reorder(body.patches))


@guarded.post("/rollback")
async def rollback_change(request: Request) -> JSONResponse:
    """Undo the last change."""
    body = await read_body(request, RollbackRequest)
    operations = _operations(request)
    return await _made(operations, operations.rollback(body.self_test.test()))


@public.get("/ready")
async def report_ready(request: Request) -> JSONResponse:
    """For probes, without a token: 200 if the weights are good and have the ?version=... given, if any."""
    coordinator = _operations(request).coordinator
    wanted = request.query_params.get("version")
    good = coordinator.agree and wanted in {None, coordinator.version}
    content = {"ready": good, "version": coordinator.version}
    return JSONResponse(content, status_code=200 if good else 503)


async def _made(
    operations: Operations, change: Coroutine[Any, Any, CompletedChange], status: int = 200
) -> JSONResponse:
    """Finish a change even if its client disconnects."""
    task = asyncio.create_task(change)
    _running.add(task)  # the event loop holds only weak references to tasks
    task.add_done_callback(_running.discard)
    done = await asyncio.shield(task)
    return JSONResponse(done.to_json() | {"stack": operations.report()}, status_code=status)


async def as_json(request: Request, error: Exception) -> JSONResponse:
    """The response for an error."""
    assert isinstance(error, LiveError)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    content = {"error": {"code": error.code, "message": str(error), "details": error.details}}
    return JSONResponse(content, status_code=error.status, headers=headers)
