"""The embedded broker's credentials: a project says and hears its own, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from finery_contracts.errors import Unavailable
from finery_kit.bus import inbox_prefix
from finery_kit.bus_init import bus_init
from finery_kit.nats_server import NatsServer, bus_password
from finery_kit.ports import free_port

SECRET = bytes.fromhex("ab" * 32)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A broker that knows one project."""
    found = NatsServer(tmp_path, SECRET, port=free_port())
    await found.start(("prj_1",))
    yield found
    await found.stop()


@contextlib.asynccontextmanager
async def connected(url: str, faults: list[str] | None = None) -> AsyncIterator[Client]:
    async def note(fault: Exception) -> None:
        if faults is not None:
            faults.append(str(fault).lower())

    client = Client()
    await client.connect(url, error_cb=note, allow_reconnect=False, inbox_prefix=inbox_prefix(url))
    try:
        yield client
    finally:
        await client.close()


async def until(faults: list[str], count: int) -> None:
    async with asyncio.timeout(5):
        while len(faults) < count:
            await asyncio.sleep(0.01)


async def test_a_project_says_and_hears_only_its_own(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("studio")) as ours, connected(server.url("prj_1"), faults) as theirs:
        own = await theirs.subscribe("finery.evt.prj_1.>")
        await theirs.flush()
        async with connected(server.url("init")) as init:
            await bus_init(init)

        await theirs.publish("finery.in.prj_1.jobs", b"allowed")
        await theirs.flush()
        kept = await ours.jetstream().get_msg("INBOUND", 1, direct=True)
        assert (kept.subject, kept.data) == ("finery.in.prj_1.jobs", b"allowed")
        await ours.publish("finery.evt.prj_1.task.t.succeeded", b"fact")
        assert (await own.next_msg(timeout=5)).data == b"fact"

        forbidden = ("finery.in.prj_2.jobs", "finery.evt.prj_1.task.t.x", "finery.rpc.studio.claim", "finery.report.t",
                     "finery.work.tune.public", "$JS.API.STREAM.PURGE.EVENTS", "$KV.keys.x", "_INBOX_studio.x",
                     "finery.replay.prj_2", "finery.dead.notifier", "finery.redo.notifier", "$JS.API.INFO")  # fmt: skip
        for subject in forbidden:
            await theirs.publish(subject, b"forbidden")
        await until(faults, len(forbidden))
        assert all("permissions violation" in fault for fault in faults)


async def test_a_project_listens_nowhere_else(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("studio")) as ours, connected(server.url("prj_1"), faults) as theirs:
        places = ("finery.evt.prj_2.>", "finery.evt.>", ">", "finery.rpc.>", "_INBOX.>", "_INBOX_studio.>",
                  "_INBOX_prj_2.>", "$KV.>", "finery.in.prj_1.>")  # fmt: skip
        subscriptions = [await theirs.subscribe(place) for place in places]
        await until(faults, len(places))

        for subject in ("finery.evt.prj_2.task.t.succeeded", "finery.work.tune.public", "$KV.keys.k"):
            await ours.publish(subject, b"secret")
        await asyncio.gather(ours.flush(), theirs.flush())
        assert [subscription.pending_msgs for subscription in subscriptions] == [0] * len(places)


async def test_a_project_cannot_make_the_server_say_something_elsewhere_by_naming_a_reply(server: NatsServer) -> None:
    places = ("finery.evt.prj_2.task.t.succeeded", "finery.rpc.studio.claim", "finery.report.t", "$KV.keys.k",
              "$KV.routes.r", "_INBOX_studio.x")  # fmt: skip
    async with connected(server.url("init")) as init, connected(server.url("prj_1"), []) as theirs:
        await bus_init(init)
        await bus_init(init)  # correcting what is there keeps it so
        for place in places:
            await theirs.publish("finery.in.prj_1.jobs", b"{}", reply=place)
        await theirs.flush()

        async with asyncio.timeout(5):
            while (await init.jetstream().stream_info("INBOUND")).state.messages < len(places):
                await asyncio.sleep(0.01)
        kept = [(await init.jetstream().stream_info(name)).state.messages for name in ("EVENTS", "REPORTS", "KV_keys")]
        assert kept == [0, 0, 0]


async def test_an_answer_to_a_service_cannot_be_overheard(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("init")) as ours, connected(server.url("prj_1"), faults) as theirs:
        overheard = [await theirs.subscribe(place) for place in ("_INBOX.>", "_INBOX_init.>", "_INBOX_prj_1.>")]
        await theirs.flush()
        await bus_init(ours)  # dozens of requests to JetStream and their answers
        await theirs.flush()
        assert [subscription.pending_msgs for subscription in overheard] == [0, 0, 0]
        await until(faults, 2)


async def test_a_project_cannot_reach_jetstream(server: NatsServer) -> None:
    async with connected(server.url("prj_1"), []) as theirs:
        with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
            await theirs.request("$JS.API.INFO", b"", timeout=0.3)


async def is_let_in(server: NatsServer, user: str) -> bool:
    """By hand: a client that is refused leaves its socket open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    password = bus_password(SECRET, user)
    await reader.readline()
    writer.write(f'CONNECT {{"verbose": false, "user": "{user}", "pass": "{password}"}}\r\nPING\r\n'.encode())
    answer = await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer.startswith(b"PONG")


async def test_a_new_project_is_admitted_while_the_server_runs_and_nobody_is_cut_off(server: NatsServer) -> None:
    async with connected(server.url("house")) as ours, connected(server.url("prj_1")) as theirs:
        assert not await is_let_in(server, "prj_2")

        await server.admit("prj_2")
        await server.admit("prj_2")

        async with asyncio.timeout(5):
            while not await is_let_in(server, "prj_2"):
                await asyncio.sleep(0.01)
        await asyncio.gather(ours.flush(), theirs.flush())
        assert server.projects == ("prj_1", "prj_2")
        assert ours.is_connected
        assert theirs.is_connected


async def test_what_was_acknowledged_is_there_after_a_crash(server: NatsServer) -> None:
    async with connected(server.url("init")) as client:
        await bus_init(client)
    async with connected(server.url("trainer")) as client:
        await client.jetstream().publish("finery.report.t", b"kept")
    server._process.kill()  # type: ignore[union-attr]
    await server.wait()

    await server.restart()

    async with connected(server.url("studio")) as client:
        stored = await client.jetstream().get_msg("REPORTS", 1, direct=True)
    assert stored.data == b"kept"


async def test_the_config_with_its_passwords_is_its_owners_alone(server: NatsServer) -> None:
    assert (server.folder / "server.conf").stat().st_mode & 0o077 == 0


async def test_a_port_that_is_taken_is_an_error_that_shows_the_brokers_words(
    server: NatsServer, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="did not start"):
        await NatsServer(tmp_path / "second", SECRET, port=server.port).start(())
