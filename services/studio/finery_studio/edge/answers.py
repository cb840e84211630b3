"""Error shapes and pages, the same on every route."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from finery_contracts.errors import ErrorBody, FineryError, InvalidRequest, NotFound
from finery_kit.bus import body_of_faults
from finery_studio.edge.wishes import Replayed, answer_again

log = logging.getLogger("finery.studio.http")


def answer_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape with a stable code."""
    app.add_exception_handler(FineryError, _finery)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(Replayed, answer_again)


def invalid(fault: ValidationError | RequestValidationError) -> InvalidRequest:
    """All faults at once, each named."""
    faults = fault.errors() if isinstance(fault, RequestValidationError) else fault.errors(include_url=False)
    body = body_of_faults(faults, skip=("body", "query", "path"))
    return InvalidRequest(body.message, code=body.code, param=body.param, details=body.details)


def page(items: Sequence[BaseModel], limit: int, *, key: str = "id") -> dict[str, Any]:
    """A page of ``/api/v1``; ``items`` holds one more than the page when there is more."""
    shown = list(items[:limit])
    more = len(items) > limit
    return {
        "data": [_briefly(item).model_dump(mode="json") for item in shown],
        "has_more": more,
        "next": getattr(shown[-1], key) if more else None,
    }


def _briefly(item: BaseModel) -> BaseModel:
    """A thousand bad records have room in the thing itself, not in each line of a list."""
    error = getattr(item, "error", None)
    return item.model_copy(update={"error": error.brief()}) if isinstance(error, ErrorBody) else item


def openai_page(items: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page in OpenAI's shape."""
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


def error_answer(fault: FineryError, **more: str) -> JSONResponse:
    """The error in OpenAI's shape; ``more``: further headers."""
    headers = dict(more)
    if fault.retryable or fault.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(fault.retry_after_s or 2))
    return JSONResponse(fault.as_openai(), fault.status, headers=headers)


async def _finery(_request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, FineryError)
    return error_answer(fault)


async def _validation(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, ValidationError | RequestValidationError)
    return await _finery(request, invalid(fault))


async def _http(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, HTTPException)
    if fault.status_code == 404:
        missing = NotFound(f"there is no {request.method} {request.url.path} here", code="route_not_found")
        return await _finery(request, missing)
    error = InvalidRequest(str(fault.detail), code="method_not_allowed" if fault.status_code == 405 else None)
    return JSONResponse(error.as_openai(), fault.status_code)


async def _unexpected(_request: Request, fault: Exception) -> JSONResponse:
    log.error("request_failed", exc_info=fault)
    return JSONResponse(FineryError().as_openai(), 500)
