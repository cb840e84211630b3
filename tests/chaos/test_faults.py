"""Schedules come from the seed alone; a proxy's connections can be cut, stalled and delayed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.faults import SERVICE, make_schedule
from tests.chaos.proxy import FaultProxy, to_port


def test_the_same_seed_gives_the_same_schedule_and_every_process_has_its_turn() -> None:
    names = [f"p-{number}" for number in range(12)]
    one, two, other = (
        make_schedule(random.Random(seed), kills=60, processes=names, proxies=["bus", "http"]) for seed in (7, 7, 8)
    )
    assert one == two != other
    assert sum(fault.kills for fault in one) == 60
    assert {fault.target for fault in one if fault.what == SERVICE} == set(names)


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """In front of a server that says everything back."""

    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = FaultProxy(to_port(server.sockets[0].getsockname()[1]))
    await made.start()
    yield made
    await made.stop()
    await ended.wait()
    server.close()


async def test_what_is_cut_ends_and_the_next_connection_works(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert await reader.read(10) == b"one"

    proxy.cut(1.0)

    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(10) == b""
    writer.close()
    again, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"two")
    assert await again.read(10) == b"two"
    writer.close()


async def test_what_is_stalled_comes_later_and_whole(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"-")
    assert await reader.read(10) == b"-"

    began = time.monotonic()
    proxy.stall(1.0, 0.4)
    writer.write(b"late")

    assert await reader.readexactly(4) == b"late"
    assert time.monotonic() - began >= 0.39
    writer.close()
