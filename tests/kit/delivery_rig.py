"""What tests of delivery share: a broker that can be killed, and a look into the outbox and the stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path

from nats.aio.client import Client
from sqlalchemy import MetaData
from sqlmodel import col, select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.envelope import Event
from finery_contracts.streams import EVENTS
from finery_kit.bus import let_go
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import OutboxRow, emit
from finery_kit.nats_server import nats_binary
from finery_kit.ports import free_port


@contextlib.contextmanager
def opened(url: str, *metadata: MetaData, clock: Callable[[], datetime] = utc_now) -> Iterator[Database]:
    """A database with these tables."""
    made = Database(url, *metadata, clock=clock)
    made.open()
    yield made
    made.close()


class Broker:
    """A nats-server that can be killed as by a power cut of its process, and started again on the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = Client()

    async def quiet(_fault: Exception) -> None:
        """Reconnecting is what these tests are about."""
        let_go(client)

    await client.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet)
    try:
        yield client
    finally:
        await client.close()


def say(tx: Transaction, project: str, version: int) -> Event:
    data = ProjectView(id=project, name="p", version=version, created_at=tx.now)
    return emit(tx, ProjectCreated, project, project=project, version=version, data=data)


async def outbox(database: Database) -> list[OutboxRow]:
    return await database.read(lambda session: list(session.exec(select(OutboxRow).order_by(col(OutboxRow.seq)))))


async def stored(client: Client) -> list[tuple[str, int, str]]:
    """Everything in EVENTS in its order: noun id, version, message id."""
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(EVENTS.name)).state
    found: list[tuple[str, int, str]] = []
    for seq in range(state.first_seq, state.last_seq + 1):
        message = await jetstream.get_msg(EVENTS.name, seq)
        body = json.loads(message.data or b"")
        found.append((body["data"]["id"], body["nounversion"], (message.headers or {})["Nats-Msg-Id"]))
    return found


async def until_published(database: Database) -> None:
    while not all(row.published for row in await outbox(database)):
        await asyncio.sleep(0.02)
