"""One connection to an endpoint: a request goes out, an answer comes in, under limits.

HTTP/1.1 as llhttp reads it, strictly. It refuses to unpack, to read more of a body than is kept, and to be used again
once anything came that was not asked for.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httptools

KEPT_BODY_BYTES = 4096
MOST_BYTES, MOST_HEADERS = 64 * 1024, 128
"""Of an answer that did not end, with its head and the frames of its chunks."""
SWITCHED = 101
"""To another protocol, which nobody asked for; the one interim status that is the last."""
BUFFER_BYTES = 16 * 1024


class Broken(Exception):
    """The connection ended, or brought what is no answer. ``unanswered``: it closed before any byte of one."""

    def __init__(self, why: str, *, unanswered: bool = False) -> None:
        super().__init__(why)
        self.unanswered = unanswered


class Answer(NamedTuple):
    """What an endpoint said; of the body, the beginning."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str | None:
        """The last one of this name (lower case)."""
        found = [value for known, value in self.headers if known.lower() == name]
        return found[-1].decode("latin-1") if found else None


class Wire(asyncio.BufferedProtocol):
    """The protocol of a connection that asks; ``exchange`` once at a time. asyncio and httptools call the rest.

    ``buffer`` may be shared by all connections of a loop: nothing stays in it.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._usable = False
        self._begin()

    def _begin(self) -> None:
        self._status, self._got, self._kept, self._ended, self._in_body = 0, 0, 0, False, False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether another request may go this way."""
        return self._usable

    async def exchange(self, request: bytes) -> Answer:
        """Send a request, return what came; whoever is cancelled leaves the connection closed.

        Raises:
            Broken: there is no whole answer.
        """
        transport = self._transport
        if transport is None or not self._usable:
            raise Broken("it was closed", unanswered=True)
        self._begin()
        self._usable = False
        self._waiting = self._loop.create_future()
        transport.write(request)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            transport.abort()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """Let go at once."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._usable = True

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self._waiting is None or self._waiting.done() or self._parser is None:
            self.close()  # nobody asked
            return
        self._got += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserUpgrade:
            self._ended, self._usable = True, False
        except httptools.HttpParserError as fault:
            if not self._ended:
                self._fail(Broken(f"what came is no HTTP: {fault}"))
                return
            self._usable = False
        if self._ended or self._kept >= KEPT_BODY_BYTES:
            self._answer()
        elif self._got > MOST_BYTES or len(self._headers) > MOST_HEADERS:
            self._fail(Broken("the head of the answer, or what frames its body, is too long"))

    def eof_received(self) -> None:
        """It says no more: an answer without a length is whole now."""
        framed = {name.lower() for name, _ in self._headers} & {b"content-length", b"transfer-encoding"}
        if self._in_body and not framed and self._waiting is not None and not self._waiting.done():
            self._usable = False
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; parser and protocol name each other, so one forgets."""
        self._usable = False
        self._parser = self._transport = None
        said = f": {exc.strerror or type(exc).__name__}" if isinstance(exc, OSError) else ""
        self._fail(Broken(f"it was closed before the answer ended{said}", unanswered=self._got == 0))

    # --- httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins; behind a whole one there must be none."""
        if self._ended:
            self._usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those behind a body are left out."""
        if not self._in_body:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        assert self._parser is not None
        if not self._ended:
            self._status, self._in_body = self._parser.get_status_code(), True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._kept < KEPT_BODY_BYTES:
            self._body.append(body)
            self._kept += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only was an interim one (RFC 9110, 15.2)."""
        assert self._parser is not None
        if self._ended:
            return
        if 100 <= self._status < 200 and self._status != SWITCHED:
            self._headers, self._in_body = [], False
            return
        self._ended, self._usable = True, self._parser.should_keep_alive()

    # ------------------------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        assert self._waiting is not None
        body = b"".join(self._body)[:KEPT_BODY_BYTES]
        self._waiting.set_result(Answer(self._status, self._headers, body))
        transport = self._transport
        if transport is not None and (not self._ended or not self._usable or transport.get_write_buffer_size()):
            self.close()  # the rest is not wanted, or the request is not wanted any more

    def _fail(self, fault: Broken) -> None:
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(fault)
