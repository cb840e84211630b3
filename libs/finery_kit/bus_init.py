"""Applies what ``finery_contracts.streams`` declares, any number of times; brings back a consumer that was lost."""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    KeyValueConfig,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from finery_contracts.jobs import TaskKind
from finery_contracts.retention import Retention
from finery_contracts.streams import (
    INBOUND,
    KV_BUCKETS,
    STREAMS,
    WORK,
    ConsumerSpec,
    StreamSpec,
    kept_by,
    work_consumer,
)

log = logging.getLogger("finery.bus_init")
WATCH_S = 30.0


async def bus_init(client: Client, pools: tuple[str, ...] = ("public",), *, policy: Retention | None = None) -> None:
    """Make or correct every stream, consumer and key-value bucket; ages come from the policy."""
    jetstream = client.jetstream(timeout=10)
    streams = kept_by(policy or Retention())
    await asyncio.gather(*(_stream(jetstream, spec) for spec in streams), *(_bucket(jetstream, b) for b in KV_BUCKETS))
    await heal_consumers(jetstream, pools)


async def heal_consumers(jetstream: JetStreamContext, pools: tuple[str, ...]) -> None:
    """Make or correct every durable consumer; those that exist keep their place."""
    wanted = [(stream.name, spec) for stream in STREAMS for spec in stream.consumers]
    wanted += [(WORK.name, work_consumer(kind, pool)) for kind in TaskKind for pool in pools]
    await asyncio.gather(*(_consumer(jetstream, stream, spec) for stream, spec in wanted))


async def heal_doorbells(jetstream: JetStreamContext, pools: Callable[[], Awaitable[Sequence[str]]]) -> None:
    """Make the doorbells of every pool that is missing some, and remove those of pools that are gone.

    The pools are asked for after the look at what is there: a pool made meanwhile does not lose its doorbells.
    """
    there = await _doorbells(jetstream)
    wanted = {spec.durable: spec for pool in await pools() for kind in TaskKind for spec in [work_consumer(kind, pool)]}
    missing = [spec for durable, spec in wanted.items() if durable not in there]
    await asyncio.gather(*(_consumer(jetstream, WORK.name, spec) for spec in missing))
    for durable in there - wanted.keys():
        with contextlib.suppress(NotFoundError):
            await jetstream.delete_consumer(WORK.name, durable)


async def _doorbells(jetstream: JetStreamContext) -> set[str]:
    found = set[str]()
    while page := await jetstream.consumers_info(WORK.name, offset=len(found)):
        names = {info.name for info in page}
        if names <= found:
            break
        found |= names
    return found


async def watch(client: Client, pools: tuple[str, ...] = ("public",), *, policy: Retention | None = None) -> None:
    """The watchdog: what someone deleted is back within 30 seconds, and at once after the broker was away."""
    jetstream = client.jetstream(timeout=10)
    while True:
        reconnects = client.stats["reconnects"]
        for _ in range(int(WATCH_S)):
            await asyncio.sleep(1)
            if client.stats["reconnects"] != reconnects:
                break
        try:
            if await _lost_streams(jetstream):
                log.error("streams_were_lost")
                await bus_init(client, pools, policy=policy)
            else:
                await heal_consumers(jetstream, pools)
        except Exception as fault:  # the broker is away: next time
            log.warning("bus_watch_failed", extra={"error": repr(fault)})


async def _lost_streams(jetstream: JetStreamContext) -> bool:
    for name in (*(stream.name for stream in STREAMS), *(f"KV_{bucket}" for bucket in KV_BUCKETS)):
        try:
            await jetstream.stream_info(name)
        except NotFoundError:
            return True
    return False


async def _stream(jetstream: JetStreamContext, spec: StreamSpec) -> None:
    config = StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        description=spec.meaning,
        retention=RetentionPolicy.WORK_QUEUE if spec.retention == "workqueue" else RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=spec.max_age_s,
        max_bytes=spec.max_bytes,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        duplicate_window=min(spec.duplicate_window_s, spec.max_age_s or spec.duplicate_window_s),
        allow_direct=True,
        # The server acknowledges to whatever reply subject a publisher names, permissions or not: with acknowledgements
        # a project's credential could write into the key-value buckets and into other projects' facts.
        no_ack=spec.name == INBOUND.name,
        persist_mode=PersistMode.ASYNC if spec.quick else None,
    )
    try:
        await jetstream.stream_info(spec.name)
    except NotFoundError:
        await jetstream.add_stream(config)
    else:
        await jetstream.update_stream(config)


async def _consumer(jetstream: JetStreamContext, stream: str, spec: ConsumerSpec) -> None:
    filters = () if spec.unfiltered else spec.filters
    single = filters[0] if len(filters) == 1 else None
    await jetstream.add_consumer(
        stream,
        ConsumerConfig(
            durable_name=spec.durable,
            filter_subject=single,
            filter_subjects=list(filters) if len(filters) > 1 else None,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=spec.ack_wait_s,
            max_deliver=spec.max_deliver,
            max_ack_pending=spec.max_ack_pending,
        ),
    )


async def _bucket(jetstream: JetStreamContext, bucket: str) -> None:
    try:
        await jetstream.key_value(bucket)
    except NotFoundError:
        await jetstream.create_key_value(KeyValueConfig(bucket=bucket, history=1))
