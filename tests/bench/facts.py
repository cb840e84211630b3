"""Facts on the bus for benchmarks to read, and turns in which two readers of them are compared."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from finery_contracts.envelope import Event
from finery_contracts.streams import EVENTS, Durable
from finery_kit.bus_init import bus_init, heal_consumers
from finery_kit.service import connected
from finery_kit.testing import nats_server

AT_ONCE = 500
Bare = Callable[[JetStreamContext.PullSubscription, Path], Awaitable[float]]
Ours = Callable[[JetStreamContext, str, Path], Awaitable[float]]


def shares(facts: Iterable[Event], subject: str, bare: Bare, ours: Ours, *, turns: int) -> list[float]:
    """What ``ours`` keeps of the rate of ``bare`` in each pair of turns; both give facts a second.

    They take turns, so that the machine's mood meets both alike. The bare loop runs as Python starts: a hot consumer
    calms the garbage collector for its whole process, which made the bare loop beside it half as fast again.
    """
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder, nats_server(Path(folder) / "nats") as url:
        return asyncio.run(_shares(url, Path(folder), facts, subject, bare, ours, turns))


async def _shares(
    url: str, folder: Path, facts: Iterable[Event], subject: str, bare: Bare, ours: Ours, turns: int
) -> list[float]:
    async with connected(url) as client:
        await bus_init(client)
        await _fill(client, facts)
        found: list[float] = []
        for turn in range(turns + 1):
            with garbage_collected_as_ever():
                at_best = await _bare(client, subject, bare, folder / f"bare-{turn}.sqlite")
            await client.jetstream().delete_consumer(EVENTS.name, Durable.BILLING_METER)
            await heal_consumers(client.jetstream(), ("public",))
            home = folder / f"ours-{turn}"
            home.mkdir()
            kept = await ours(client.jetstream(), url, home)
            if turn:  # the first one warms both up
                found.append(kept / at_best)
        return found


async def _bare(client: Client, subject: str, bare: Bare, file: Path) -> float:
    jetstream = client.jetstream()
    await jetstream.add_consumer(
        EVENTS.name, ConsumerConfig(
            durable_name="bare", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=1000, filter_subject=subject
        ),
    )  # fmt: skip
    subscription = await jetstream.pull_subscribe_bind("bare", EVENTS.name)
    rate = await bare(subscription, file)
    await subscription.unsubscribe()
    await jetstream.delete_consumer(EVENTS.name, "bare")
    return rate


@contextlib.contextmanager
def garbage_collected_as_ever() -> Iterator[None]:
    """As Python starts, whatever a service set for its process before."""
    before = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _fill(client: Client, facts: Iterable[Event]) -> None:
    """Publish them, and wait until all are stored."""
    jetstream = client.jetstream(publish_async_max_pending=4 * AT_ONCE)
    for number, fact in enumerate(facts, 1):
        await jetstream.publish_async(fact.bus_subject, fact.model_dump_json().encode())
        if number % AT_ONCE == 0:
            await jetstream.publish_async_completed()
    await jetstream.publish_async_completed()
