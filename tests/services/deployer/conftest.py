"""Fixtures: a broker and a bench of its own for each test."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from deployer_bench import Bench

from finery_kit.bus_init import bus_init
from finery_kit.testing import nats_server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    with nats_server(tmp_path / "nats") as url:
        yield url


@pytest_asyncio.fixture
async def bench(tmp_path: Path, broker: str, service_database: str) -> AsyncIterator[Bench]:
    client = await nats.connect(broker)
    await bus_init(client)
    home = tmp_path / "home"
    home.mkdir()
    made = Bench(home, broker, client)
    yield made
    for child in made.children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    await client.close()
