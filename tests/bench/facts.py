"""Facts on the bus for benchmarks to read."""

from __future__ import annotations

from collections.abc import Iterable

from nats.aio.client import Client

from finery_contracts.envelope import Event

AT_ONCE = 500


async def fill(client: Client, facts: Iterable[Event]) -> None:
    """Publish them, and wait until all are stored."""
    jetstream = client.jetstream(publish_async_max_pending=4 * AT_ONCE)
    for number, fact in enumerate(facts, 1):
        await jetstream.publish_async(fact.bus_subject, fact.model_dump_json().encode())
        if number % AT_ONCE == 0:
            await jetstream.publish_async_completed()
    await jetstream.publish_async_completed()
