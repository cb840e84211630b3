"""A standing request for messages of one durable consumer: whatever arrived together is handed over together.

nats-py's own ``fetch`` of many waits for the rest of its batch once the first message is there (measured: up to its
time-out), so it is either slow to answer or has to be asked again and again. This asks once, and again when the server
has filled or ended the request. It refuses to acknowledge: that is for whoever takes the messages.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

log = logging.getLogger("finery.bus")
EXPIRES_S = 20.0
LOOK_S = 1.0
GATHER_S = 0.02
BREATHE_S = 0.5
_ENDED = {"404", "408"}  # no messages, request expired: nothing is wrong
_HEARTBEAT = "100"


class Pull:
    """``async with``; then ``await messages()`` again and again."""

    def __init__(self, client: Client, stream: str, durable: str, *, batch: int) -> None:
        self._client, self._batch = client, batch
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._subscription: Subscription | None = None
        self.waiting: list[Msg] = []
        """Arrived, and not handed over yet."""
        self._news = asyncio.Event()
        self._asked = 0  # how many of the standing request are still to come
        self._asked_at = 0.0
        self._reconnects = 0
        self._breathe = False

    async def __aenter__(self) -> Pull:
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection may be gone already
                await self._subscription.unsubscribe()

    async def messages(self) -> list[Msg]:
        """At least one; what came since the last time. Waits as long as it takes, also for a broker that is away."""
        while True:
            await self._ask()
            if self.waiting:
                await self._gather()
                arrived, self.waiting = self.waiting, []
                return arrived
            await self._until_news(LOOK_S)

    async def _gather(self) -> None:
        """While the server has more and it keeps coming: committing few costs what committing many does."""
        while self._asked > 0 and len(self.waiting) < self._batch and _left_behind(self.waiting[-1]):
            if not await self._until_news(GATHER_S):
                return

    async def _until_news(self, limit_s: float) -> bool:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        return self._news.is_set()

    async def _ask(self) -> None:
        """See that a request stands; after a reconnect, or when the server fell silent, the last one does not."""
        reconnects = self._client.stats["reconnects"]
        silent = time.monotonic() - self._asked_at > EXPIRES_S + 2 * LOOK_S
        if self._asked > 0 and reconnects == self._reconnects and not silent:
            return
        if self._breathe:
            self._breathe = False
            await asyncio.sleep(BREATHE_S)
        self._asked, self._asked_at, self._reconnects = self._batch, time.monotonic(), reconnects
        request = {"batch": self._batch, "expires": int(EXPIRES_S * 1e9)}
        try:
            await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)
        except nats.errors.Error as fault:  # the broker is away: later
            log.warning("pull_waits", extra={"subject": self._subject, "error": repr(fault)})
            self._asked, self._breathe = 0, True

    async def _on_message(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status") if not message.data else None
        if status is None or message.reply.startswith("$JS.ACK."):
            self._asked -= 1
            self.waiting.append(message)
        elif status != _HEARTBEAT:
            self._asked = 0
            self._breathe = status not in _ENDED
            if self._breathe:
                log.warning("pull_refused", extra={"subject": self._subject, "status": status})
        self._news.set()


def _left_behind(message: Msg) -> bool:
    """Whether the server had more when it sent this one: the last token of where it is acknowledged says how much."""
    return not message.reply.endswith(".0")
