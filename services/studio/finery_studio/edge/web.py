"""The HTTP server inside the service, and the span of each request. It refuses to touch the process's signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from fastapi.responses import JSONResponse
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import SpanKind, Status, StatusCode

from finery_contracts.errors import InvalidRequest
from finery_kit.telemetry import context_of, span_from

PATIENCE_S = 5
LINKS = ("/confirm/", "/unsubscribe/")
"""What follows is a token: whoever reads it may do what the link does."""
UNKEPT = JSONResponse(InvalidRequest("a URL holds no NUL; send plain text", code="url_invalid").as_openai(), 400)


class TracedApp:
    """ASGI: one server span for each request that changes something; reads are too many to be worth one.

    A NUL in a URL ends here: no database takes it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
            await UNKEPT(scope, receive, send)
            return
        headers = dict(scope["headers"])
        parent = headers.get(b"traceparent", b"").decode("latin-1")
        # A kept-alive connection hands its earlier request's context on: each request begins with its own.
        token = attach(context_of(parent) if parent else Context())
        try:
            if scope["method"] in ("GET", "HEAD") and not parent:
                await self._app(scope, receive, send)
            else:
                await self._traced(scope, receive, send)
        finally:
            detach(token)

    async def _traced(self, scope: Any, receive: Any, send: Any) -> None:
        name = f"{scope['method']} {shown_path(scope['path'])}"
        with span_from(None, "studio", name, kind=SpanKind.SERVER) as span:

            async def noting(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, noting)


def shown_path(path: str) -> str:
    """As spans name it: without the token of a link."""
    return next((f"{link}***" for link in LINKS if path.startswith(link)), path)


class WebServer(uvicorn.Server):
    """uvicorn on a socket that is bound before the service says it is ready."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=PATIENCE_S,
            server_header=False,
        )  # fmt: skip
        super().__init__(config)
        self._socket = socket.create_server((host, port), family=socket.AF_INET, backlog=512)
        self._stopped = asyncio.Event()
        self.port: int = self._socket.getsockname()[1]

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The service's own process handles signals."""
        yield

    async def run_until_stopped(self) -> None:
        """Serve; returns after ``stop``."""
        try:
            await self.serve(sockets=[self._socket])
        finally:
            self._socket.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Take no more requests, finish what is being answered; not for longer than twice uvicorn's own patience."""
        self.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * PATIENCE_S):
                await self._stopped.wait()
