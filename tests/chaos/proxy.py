"""A TCP proxy between services and what they need, whose connections can be cut, stalled and delayed.

It passes bytes on and knows no protocol; with several upstreams it takes the first, from a turning place, that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

CHUNK = 1 << 16
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Opened]]


def to_port(port: int) -> Open:
    """An upstream on loopback."""
    return lambda: asyncio.open_connection("127.0.0.1", port)


def to_socket(path: str) -> Open:
    """An upstream behind a unix socket."""
    return lambda: asyncio.open_unix_connection(path)


@dataclass(eq=False)
class _Link:
    """One connection: both ends, and what is done to it at the moment."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0

    def cut(self) -> None:
        self.open.set()
        for end in self.ends:
            end.transport.abort()


class FaultProxy:
    """Listens on a port of its own once it is started."""

    def __init__(self, *upstreams: Open) -> None:
        self._upstreams: Sequence[Open] = upstreams
        self._links: list[_Link] = []
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._undoing: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        for task in self._undoing:
            task.cancel()
        self.cut(1.0)
        while self._links:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    def cut(self, share: float) -> None:
        """Break the oldest connections, without a word to either end."""
        for link in self._some(share):
            link.cut()

    def stall(self, share: float, seconds: float) -> None:
        """Nothing passes for a while; neither end is told."""
        links = self._some(share)
        for link in links:
            link.open.clear()

        def resume(link: _Link) -> None:
            link.open.set()

        self._later(links, seconds, resume)

    def delay(self, share: float, seconds: float, *, each_s: float) -> None:
        """For a while every piece comes late."""
        links = self._some(share)
        for link in links:
            link.delay_s = each_s

        def hurry(link: _Link) -> None:
            link.delay_s = 0.0

        self._later(links, seconds, hurry)

    def _some(self, share: float) -> list[_Link]:
        return self._links[: max(1, round(share * len(self._links)))]

    def _later(self, links: list[_Link], seconds: float, undo: Callable[[_Link], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            for link in links:
                undo(link)

        task = asyncio.create_task(wait())
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await self._upstream()
        if upstream is None:
            writer.transport.abort()
            return
        link = _Link((writer, upstream[1]))
        link.open.set()
        self._links.append(link)
        try:
            await asyncio.gather(_pass(reader, upstream[1], link), _pass(upstream[0], writer, link))
        finally:
            self._links.remove(link)
            link.cut()

    async def _upstream(self) -> Opened | None:
        self._turn += 1
        for place in range(len(self._upstreams)):
            with contextlib.suppress(OSError):
                return await self._upstreams[(self._turn + place) % len(self._upstreams)]()
        return None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(CHUNK):
            await link.open.wait()
            if link.delay_s:
                await asyncio.sleep(link.delay_s)
            writer.write(data)
            await writer.drain()
    # One end is closed: what is under way to the other end is let through, then that is closed as well.
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
