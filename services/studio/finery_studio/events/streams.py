"""Reads a subject of a stream back, from a sequence on: curves and logs never passed through SQL."""

from __future__ import annotations

from dataclasses import dataclass

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

PAGE = 500


@dataclass(frozen=True)
class Stored:
    """A message with its place."""

    seq: int
    body: bytes


async def read_subject(
    jetstream: JetStreamContext, stream: str, subject: str, *, after: int = 0, limit: int = 10_000
) -> list[Stored]:
    """Everything stored under ``subject`` after a sequence number, oldest first."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1, ack_policy=AckPolicy.NONE,
        inactive_threshold=30, filter_subject=subject,
    )  # fmt: skip
    subscription = await jetstream.pull_subscribe(subject, stream=stream, config=config)
    found: list[Stored] = []
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending > 0 and len(found) < limit:
            messages = await subscription.fetch(min(PAGE, pending), timeout=5)
            found += [Stored(m.metadata.sequence.stream, m.data) for m in messages]
            pending -= len(messages)
    except nats.errors.TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return found
