"""What it costs to deliver for certain, and what endpoints that hang cost the others.

``ratio``: deliveries a second that the courier claims from its table, signs, posts and settles durably with a line in
the delivery log (SQLite, sync full), against a bare loop that signs and posts the same body with aiohttp, keeping its
connections. Same payload, same endpoints (several ports of one listener in another process), as many side by side. The
rows lie in the table when the clock starts; writing them belongs to hearing facts, which is measured elsewhere. No
tracing on either side: the rows have no cause.

``isolation``: p99 of the time from a fact being stored to its arrival at healthy endpoints, with one in twenty
endpoints hanging, against the same without; facts come at a steady rate that leaves the machine room.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook

from finery_contracts.ids import new_id
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.hot import calm_the_garbage_collector
from finery_notifier import deliveries
from finery_notifier.adapters import WebhookMail
from finery_notifier.courier import Courier
from finery_notifier.domain import Patience
from finery_notifier.lanes import Lanes
from finery_notifier.settling import Rules
from finery_notifier.tables import NOTIFIER_METADATA, DeliveryRow, SubscriptionRow
from tests.bench.facts import garbage_collected_as_ever

PAIRS, DELIVERIES, SIDE_BY_SIDE, PORTS = 4, 2000, 64, 8
ENDPOINTS, HANGING, RATE, SECONDS = 40, 2, 100, 8
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BODY = json.dumps(
    {"specversion": "1.0", "id": "evt_1", "type": "io.finery.task.succeeded.v1", "data": {"x": "y" * 900}}
)
HANG_S = 60.0


def ratio() -> list[float]:
    """Persisted deliveries a second over bare ones, of each pair (A B A B …)."""
    with listener(PORTS) as (urls, _):
        return [asyncio.run(_delivered(urls)) / _bare_rate(urls) for _ in range(PAIRS)]


def isolation() -> list[float]:
    """p99 with hanging endpoints over p99 without, of each pair (A B A B …)."""
    return [_p99(HANGING) / _p99(0) for _ in range(PAIRS)]


def _bare_rate(urls: list[str]) -> float:
    with garbage_collected_as_ever():
        return asyncio.run(_bare(urls))


async def _bare(urls: list[str]) -> float:
    left = iter(range(DELIVERIES))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in left:
            now = datetime.now(UTC)
            headers = {
                "Content-Type": "application/cloudevents+json", "webhook-id": f"evt_{number}",
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": Webhook(SECRET).sign(f"evt_{number}", now, BODY),
            }  # fmt: skip
            async with session.post(urls[number % len(urls)], data=BODY.encode(), headers=headers) as answer:
                await answer.read()
                assert answer.status == 200

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(work(session) for _ in range(SIDE_BY_SIDE)))
        return DELIVERIES / (time.perf_counter() - began)


async def _delivered(urls: list[str]) -> float:
    async with _house(urls, places=SIDE_BY_SIDE) as (database, courier):
        rows = [_row(place % len(urls), urls[place % len(urls)]) for place in range(DELIVERIES)]
        await database.write(lambda tx: deliveries.add(tx, rows))
        began = time.perf_counter()
        loop = asyncio.create_task(courier.run())
        while await database.read(_waiting):
            await asyncio.sleep(0.02)
        took_s = time.perf_counter() - began
        await courier.drain()
        await loop
        return DELIVERIES / took_s


def _p99(hanging: int) -> float:
    with listener(ENDPOINTS, hanging=hanging) as (urls, ask):
        asyncio.run(_steady(urls))
        ask.send("times")
        times = sorted(ask.recv())
    return times[min(len(times) - 1, int(len(times) * 0.99))]


async def _steady(urls: list[str]) -> None:
    async with _house(urls, places=128) as (database, courier):
        loop = asyncio.create_task(courier.run())
        began = time.perf_counter()
        for tick in range(RATE * SECONDS // 10):
            rows = [_row(place % len(urls), urls[place % len(urls)]) for place in range(tick * 10, tick * 10 + 10)]
            await database.write(lambda tx, rows=rows: deliveries.add(tx, rows))
            courier.wake()
            await asyncio.sleep(max(0.0, began + (tick + 1) * 10 / RATE - time.perf_counter()))
        await asyncio.sleep(1.0)
        courier._stopping = True
        courier.wake()
        await loop
        for flight in list(courier._flights):
            flight.cancel()
        await asyncio.gather(*courier._flights, return_exceptions=True)


@contextlib.asynccontextmanager
async def _house(urls: list[str], *, places: int) -> AsyncIterator[tuple[Database, Courier]]:
    calm_the_garbage_collector()  # as the service's hot consumer does
    allow = (ip_network("127.0.0.0/8"),)
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'n.sqlite'}", NOTIFIER_METADATA, DELIVERY_METADATA)
        database.open()
        mail = WebhookMail(allow=allow, timeout_s=20)
        await mail.open()
        courier = Courier(
            database, mail, rules=Rules((5.0,), Patience()), lanes=Lanes(places, 32), lease_s=50, public_url="https://x",
            wake_relay=lambda: None,
        )  # fmt: skip
        await database.write(lambda tx: tx.session.add_all([_subscription(n, url) for n, url in enumerate(urls)]))
        try:
            yield database, courier
        finally:
            await mail.close()
            database.close()


def _subscription(number: int, url: str) -> SubscriptionRow:
    now = datetime.now(UTC)
    return SubscriptionRow(
        id=f"sub_{number}", project="proj_1", topic_id="topic_1", kind="webhook", url=url, endpoint=url, events=[],
        description="", state="confirmed", version=2, created_at=now, confirmed_at=now, token_hash=str(number),
        confirm_until=now + timedelta(days=1), link_key="k", secret=SECRET,
    )  # fmt: skip


def _row(number: int, url: str) -> DeliveryRow:
    return DeliveryRow(
        id=new_id("dlv"), project="proj_1", subscription_id=f"sub_{number}", endpoint=url, purpose="fact",
        event_id=f"{time.time_ns()}-{new_id('evt')}", event_type="io.finery.task.succeeded.v1", noun="task/1",
        event_at=datetime.now(UTC), noun_version=1, content_type="application/cloudevents+json", body=BODY.encode(),
        due_at=datetime.now(UTC),
    )  # fmt: skip


def _waiting(session: deliveries.Session) -> int:
    return session.connection().exec_driver_sql("select count(*) from delivery where state = 'waiting'").scalar_one()


@contextlib.contextmanager
def listener(ports: int, *, hanging: int = 0):
    """(URLs, pipe) of a process that answers 200 on each port; the first ``hanging`` never answer."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_listen, args=(theirs, ports, hanging))
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.terminate()
        process.join()


def _listen(pipe: Connection, ports: int, hanging: int) -> None:
    asyncio.run(_serve(pipe, ports, hanging))


async def _serve(pipe: Connection, ports: int, hanging: int) -> None:
    times: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        born_ns, _, rest = request.headers["webhook-id"].partition("-")
        if rest:
            times.append((time.time_ns() - int(born_ns)) / 1e6)
        return web.Response()

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(HANG_S)
        return web.Response()

    urls = []
    for number in range(ports):
        app = web.Application()
        app.router.add_post("/", hang if number < hanging else answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    pipe.send(urls)
    while True:
        if pipe.poll():
            pipe.recv()
            pipe.send(times)
        await asyncio.sleep(0.05)


__all__ = ["isolation", "ratio"]
