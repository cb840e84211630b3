"""A POST as its route sees it: who asks, and under which Idempotency-Key; and how an answer of before leaves again.

It stores nothing: the route does, with the effect, through ``idempotency.once``.
"""

from __future__ import annotations

import hashlib
import json
from asyncio import to_thread
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Header, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile

from finery_contracts.access import Actor
from finery_contracts.errors import InvalidRequest
from finery_kit.idempotency import Asked, check_key, digest_of
from finery_kit.storage import CHUNK

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
MULTIPART = ("multipart/form-data", "application/x-www-form-urlencoded")
Reveal = Callable[[Any, "Wish"], Any]
"""From what is kept of an answer to the answer: for routes whose answer holds a secret, which is not kept. It asks for
whatever right the route itself asks for."""
Key = Annotated[
    str | None,
    Header(
        alias=KEY_HEADER,
        description="1 to 255 printable characters, such as a UUID: the same request under the same key is carried out "
        "once and answered alike, for 24 hours",
    ),
]


@dataclass(frozen=True)
class Wish:
    """Who asks; ``asked`` is for ``idempotency.once``."""

    actor: Actor
    asked: Asked | None = None


class Replayed(Exception):
    """Leaves the dependency with the answer that was given before."""

    def __init__(self, answer: Any, status: int) -> None:
        super().__init__(status)
        self.answer, self.status = answer, status


async def answer_again(_request: Request, fault: Exception) -> JSONResponse:
    """The exception handler for ``Replayed``."""
    assert isinstance(fault, Replayed)
    return JSONResponse(fault.answer, fault.status, headers={REPLAYED_HEADER: "true"})


async def asked_of(request: Request, actor: Actor) -> Asked:
    """The request under its key; who asks is part of it, so that no answer goes to somebody else.

    Raises:
        InvalidRequest: there are several keys, or what came is none.
    """
    keys = request.headers.getlist(KEY_HEADER)
    if len(keys) > 1:
        raise InvalidRequest(f"say {KEY_HEADER} once", code="idempotency_key_invalid", param=KEY_HEADER)
    key = check_key(keys[0])
    query = sorted(request.query_params.multi_items())
    event = sorted((name, value) for name, value in request.headers.items() if name.startswith("ce-"))
    digest = digest_of(request.method, request.url.path, query, actor.user, event, await _said(request))
    return Asked(actor.project, key, digest)


async def _said(request: Request) -> Any:
    """The body as something to compare: JSON by its meaning, a form by its fields and the bytes of its files."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in MULTIPART:
        return await _form(await request.form())
    body = await request.body()
    try:
        return ["json", json.loads(body)]
    except (ValueError, RecursionError):
        return [kind, hashlib.sha256(body).hexdigest()]


async def _form(form: FormData) -> list[list[str]]:
    fields = list[list[str]]()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            fields.append([name, value.filename or "", await to_thread(_sha256, value.file)])
        else:
            fields.append([name, value])
    return sorted(fields)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def status_of(request: Request) -> int:
    """The status that this route answers with when all went well."""
    return getattr(request.scope.get("route"), "status_code", None) or 200
