"""What becomes of a message whose handler failed, decided in one place: wait, come again later, or be laid aside.

A fault that is nobody's (the database is full or away) is waited for here and counts as no try. Any other brings the
message back with growing delay; at the last permitted delivery, or at once when the bytes are no message of ours, it
goes whole and with the reason to ``finery.dead.<durable>``. It never drops one silently.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from finery_contracts.errors import Unavailable
from finery_contracts.streams import consumer_of
from finery_kit.dead import Given, lay_aside, reason_of, subject_of

log = logging.getLogger("finery.bus")
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0
OUTAGE_LOOK_S = 1.0


async def attend(client: Client, message: Msg, durable: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work for a message, which acknowledges it; what it raises is dealt with as above."""
    try:
        await through_outages(lambda: [message], durable, work)
    except (ValidationError, UnicodeDecodeError) as fault:
        await give_up(client, message, durable, fault)
    except Exception as fault:
        delivered = message.metadata.num_delivered
        log.exception(
            "handler_failed", extra={"durable": durable, "error": reason_of(fault), "delivered": delivered}
        )  # fmt: skip
        if 0 < _limit(durable) <= delivered:
            await give_up(client, message, durable, fault)
        else:
            await message.nak(delay=delay_after(delivered))


async def through_outages(held: Callable[[], Iterable[Msg]], durable: str, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat the work while the database is full or away; the server hears that what is held is still at hand."""
    while True:
        try:
            await work()
            return
        except Unavailable as fault:
            log.warning("consumer_waits", extra={"durable": durable, "error": fault.message})
        with contextlib.suppress(nats.errors.Error):
            for message in held():
                await message.in_progress()
        await asyncio.sleep(OUTAGE_LOOK_S)


async def give_up(client: Client, message: Msg, durable: str, fault: Exception) -> None:
    """Lay the message aside; when that cannot be done now, it comes again, or the server's advisory tells of it."""
    reason = reason_of(fault)
    log.error("message_given_up", extra={"durable": durable, "error": reason})
    try:
        await lay_aside(client.jetstream(timeout=5), Given.of(message, durable, subject_of(message), reason))
    except Exception as away:
        log.warning("dead_letter_waits", extra={"durable": durable, "error": repr(away)})
        await message.nak(delay=LONGEST_DELAY_S)
        return
    await message.term()


def delay_after(delivered: int) -> float:
    """Seconds until the next try, after that many."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (delivered - 1))


def _limit(durable: str) -> int:
    found = consumer_of(durable)
    return found[1].max_deliver if found is not None else -1
