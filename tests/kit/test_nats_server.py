"""The embedded broker's credentials: a project says and hears its own, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client

from finery_contracts.errors import InvalidRequest, Unavailable
from finery_kit import bus_admission
from finery_kit.bus import inbox_prefix, let_go, make_broker
from finery_kit.bus_admission import bus_password
from finery_kit.bus_init import bus_init
from finery_kit.nats_config import password_variable, secrets_for, shared_config
from finery_kit.nats_server import NatsServer, nats_binary
from finery_kit.ports import free_port
from finery_kit.testing import flushed

SECRET = bytes.fromhex("ab" * 32)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    found = NatsServer(tmp_path, SECRET, port=free_port())
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def porter(server: NatsServer) -> AsyncIterator[NatsBroker]:
    """Whoever admits projects, as studio does."""
    broker = make_broker(server.url("studio"), "studio")
    bus_admission.listen(broker, "studio", SECRET)
    await broker.start()
    yield broker
    await broker.stop()


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


@pytest.mark.usefixtures("porter")
async def test_a_project_says_and_hears_only_its_own(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("studio")) as ours, connected(server.url("prj_1"), faults) as theirs:
        own = await theirs.subscribe("finery.evt.prj_1.>")
        await flushed(theirs)
        async with connected(server.url("init")) as init:
            await bus_init(init)
            await theirs.publish("finery.in.prj_1.jobs", b"allowed")
            async with asyncio.timeout(5):  # the stream acknowledges to nobody
                while not (await init.jetstream().stream_info("INBOUND")).state.messages:
                    await asyncio.sleep(0.01)
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


@pytest.mark.usefixtures("porter")
async def test_a_project_listens_nowhere_else(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("studio")) as ours, connected(server.url("prj_1"), faults) as theirs:
        places = ("finery.evt.prj_2.>", "finery.evt.>", ">", "finery.rpc.>", "_INBOX.>", "_INBOX_studio.>",
                  "_INBOX_prj_2.>", "$KV.>", "finery.in.prj_1.>")  # fmt: skip
        subscriptions = [await theirs.subscribe(place) for place in places]
        await until(faults, len(places))

        for subject in ("finery.evt.prj_2.task.t.succeeded", "finery.work.tune.public", "$KV.keys.k"):
            await ours.publish(subject, b"secret")
        await asyncio.gather(flushed(ours), flushed(theirs))
        assert [subscription.pending_msgs for subscription in subscriptions] == [0] * len(places)


@pytest.mark.usefixtures("porter")
async def test_a_project_cannot_make_the_server_say_something_elsewhere_by_naming_a_reply(server: NatsServer) -> None:
    places = ("finery.evt.prj_2.task.t.succeeded", "finery.rpc.studio.claim", "finery.report.t", "$KV.keys.k",
              "$KV.routes.r", "_INBOX_studio.x")  # fmt: skip
    async with connected(server.url("init")) as init, connected(server.url("prj_1"), []) as theirs:
        await bus_init(init)
        await bus_init(init)  # correcting what is there keeps it so
        for place in places:
            await theirs.publish("finery.in.prj_1.jobs", b"{}", reply=place)
        await flushed(theirs)

        async with asyncio.timeout(5):
            while (await init.jetstream().stream_info("INBOUND")).state.messages < len(places):
                await asyncio.sleep(0.01)
        kept = [(await init.jetstream().stream_info(name)).state.messages for name in ("EVENTS", "REPORTS", "KV_keys")]
        assert kept == [0, 0, 0]


@pytest.mark.usefixtures("porter")
async def test_an_answer_to_a_service_cannot_be_overheard(server: NatsServer) -> None:
    faults: list[str] = []
    async with connected(server.url("init")) as ours, connected(server.url("prj_1"), faults) as theirs:
        overheard = [await theirs.subscribe(place) for place in ("_INBOX.>", "_INBOX_init.>", "_INBOX_prj_1.>")]
        await flushed(theirs)
        await bus_init(ours)  # dozens of requests to JetStream and their answers
        await flushed(theirs)
        assert [subscription.pending_msgs for subscription in overheard] == [0, 0, 0]
        await until(faults, 2)


@pytest.mark.usefixtures("porter")
async def test_a_project_cannot_reach_jetstream(server: NatsServer) -> None:
    async with connected(server.url("prj_1"), []) as theirs:
        with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
            await theirs.request("$JS.API.INFO", b"", timeout=0.3)


async def is_let_in(server: NatsServer, user: str, password: str | None = None) -> bool:
    """By hand: a client that is refused leaves its socket open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    shown = bus_password(SECRET, user) if password is None else password
    await reader.readline()
    writer.write(f'CONNECT {{"verbose": false, "user": "{user}", "pass": "{shown}"}}\r\nPING\r\n'.encode())
    answer = await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer.startswith(b"PONG")


@pytest.mark.usefixtures("porter")
async def test_a_new_project_is_let_in_at_once_and_nobody_is_cut_off(server: NatsServer) -> None:
    async with connected(server.url("init")) as ours, connected(server.url("prj_1")) as theirs:
        written = (server.folder / "server.conf").stat().st_mtime_ns

        assert await is_let_in(server, "prj_2")

        await asyncio.gather(flushed(ours), flushed(theirs))
        assert ours.is_connected
        assert theirs.is_connected
        assert (server.folder / "server.conf").stat().st_mtime_ns == written


@pytest.mark.usefixtures("porter")
@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("prj_1", ""),
        ("prj_1", bus_password(SECRET, "prj_2")),
        ("prj_1", bus_password(b"another installation's", "prj_1")),
        ("stranger", None),
        ("house", None),
        ("studio", "wrong"),
        ("studio", bus_password(SECRET, "prj_1")),
        ("", ""),
    ],
)
async def test_whoever_shows_another_password_is_refused(server: NatsServer, user: str, password: str | None) -> None:
    assert not await is_let_in(server, user, password)


@pytest.mark.usefixtures("porter")
async def test_no_service_is_refused_while_projects_come(server: NatsServer) -> None:
    let_in = await asyncio.gather(
        *(is_let_in(server, user) for number in range(40) for user in ("trainer", f"prj_{number}", "notifier"))
    )
    assert all(let_in)


async def test_a_project_waits_for_whoever_lets_it_in_and_a_service_does_not(server: NatsServer) -> None:
    assert await is_let_in(server, "trainer")
    assert not await is_let_in(server, "prj_1")


@pytest.mark.usefixtures("porter")
async def test_a_project_comes_back_after_a_crash_of_the_server(server: NatsServer) -> None:
    client = Client()

    async def refused(_: Exception) -> None:  # as it may be until the porter is back
        let_go(client)

    await client.connect(
        server.url("prj_1"), max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=refused,
        inbox_prefix=inbox_prefix(server.url("prj_1")),
    )  # fmt: skip
    server._process.kill()  # type: ignore[union-attr]
    await server.wait()

    await server.start()

    async with asyncio.timeout(20):
        while not (client.is_connected and client.stats["reconnects"]):
            await asyncio.sleep(0.02)
    await flushed(client)
    assert client.is_connected
    await client.close()


async def test_a_connection_that_fails_in_its_first_words_is_let_go(server: NatsServer) -> None:
    let_go = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x", "version": "2.11.0", "max_payload": 1048576}\r\n')
        await reader.readline()
        writer.write(b"-ERR 'Authentication Timeout'\r\n")
        await reader.read()
        let_go.set()
        writer.close()

    broker = make_broker(server.url("studio"), "studio")
    await broker.start()
    server._process.kill()  # type: ignore[union-attr]
    await server.wait()
    async with await asyncio.start_server(refuse, "127.0.0.1", server.port), asyncio.timeout(10):
        await let_go.wait()
    with contextlib.suppress(ConnectionError):
        await broker.connection.close()


async def test_the_configuration_for_containers_lets_in_the_same(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text(shared_config().replace('"/data"', '"store"'))
    told = dict(line.split("=", 1) for line in secrets_for(SECRET.hex()).splitlines())
    port, monitor = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        str(nats_binary()), "-c", "nats.conf", "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor),
        cwd=tmp_path, env=told, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await settled(port)
        broker = make_broker(f"nats://studio:{told[password_variable('studio')]}@127.0.0.1:{port}", "studio")
        bus_admission.listen(broker, "studio", SECRET)
        await broker.start()
        async with connected(f"nats://prj_1:{bus_password(SECRET, 'prj_1')}@127.0.0.1:{port}") as theirs:
            await flushed(theirs)
            assert theirs.is_connected
        await broker.stop()
    finally:
        process.kill()
        await process.wait()


async def settled(port: int) -> None:
    """Somebody listens there."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("secret", [None, "", "abc", "zz" * 32, "ab" * 31])
def test_passwords_need_the_installations_secret(secret: str | None) -> None:
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        secrets_for(secret)


async def test_what_was_acknowledged_is_there_after_a_crash(server: NatsServer) -> None:
    async with connected(server.url("init")) as client:
        await bus_init(client)
    async with connected(server.url("trainer")) as client:
        await client.jetstream().publish("finery.report.t", b"kept")
    server._process.kill()  # type: ignore[union-attr]
    await server.wait()

    await server.start()

    async with connected(server.url("studio")) as client:
        stored = await client.jetstream().get_msg("REPORTS", 1, direct=True)
    assert stored.data == b"kept"


async def test_the_config_with_its_passwords_is_its_owners_alone(server: NatsServer) -> None:
    assert (server.folder / "server.conf").stat().st_mode & 0o077 == 0


async def test_a_port_that_is_taken_is_an_error_that_shows_the_brokers_words(
    server: NatsServer, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="did not start"):
        await NatsServer(tmp_path / "second", SECRET, port=server.port).start()
