"""Carries the usage journal to the bus: each line in exactly one message, and the same message again after a crash.

A batch is claimed before it is sent. Its ids come from segment, offset and project, so a batch that is sent twice is
one message to the bus, and one version of one noun to whoever hears it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from pydantic import ValidationError

from finery_contracts.envelope import CONTENT_TYPE
from finery_contracts.streams import EVENTS
from finery_contracts.usage import CallUsage, UsageBatch, UsageRecorded
from finery_gateway.store import Claim, Journal

log = logging.getLogger("finery.gateway")
BATCH_BYTES = 128 * 1024


@dataclass
class Shipper:
    """One a gateway."""

    journal: Journal
    jetstream: Callable[[], JetStreamContext]
    interval_s: float
    _claim: Claim | None = None
    _sent: bool = True
    _begun: bool = False
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.ship_all()
            except Exception as fault:  # the bus is away: the lines wait on disk
                log.warning("usage_waits", extra={"error": repr(fault)})
            await asyncio.sleep(self.interval_s)

    async def finish(self) -> None:
        """A last try before the gateway leaves; what it cannot send is sent by the next one."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.ship_all(), 5)

    async def ship_all(self) -> None:
        """Send what is on disk."""
        async with self._one_at_a_time:
            while await self._ship_next():
                pass

    async def _ship_next(self) -> bool:
        """One batch; False when nothing is left."""
        if not self._begun:
            self._claim, self._begun = self.journal.claim(), True
            self._sent = self._claim is None
        if self._sent:
            following = await asyncio.to_thread(self._following)
            if following is None:
                return False
            await asyncio.to_thread(self.journal.save_claim, following)
            self._claim, self._sent = following, False
        assert self._claim is not None
        await self._send(self._claim)
        self._sent = True
        return True

    def _following(self) -> Claim | None:
        """The batch after the present one; segments that are done with are removed on the way."""
        claim = self._claim
        for segment in self.journal.segments():
            start = claim.end if claim is not None and claim.segment == segment else 0
            data = self.journal.read(segment, start, BATCH_BYTES)
            if data:
                return Claim(segment=segment, start=start, end=start + len(data))
            if segment != self.journal.active:
                self.journal.remove(segment)
        return None

    async def _send(self, claim: Claim) -> None:
        if claim.segment not in self.journal.segments():
            return
        size = claim.end - claim.start
        data = await asyncio.to_thread(self.journal.read, claim.segment, claim.start, size)
        for event in events_of(claim, data):
            await self.jetstream().publish(
                event.bus_subject, event.model_dump_json().encode(), stream=EVENTS.name,
                headers={"Nats-Msg-Id": event.id, "content-type": CONTENT_TYPE},
            )  # fmt: skip


def events_of(claim: Claim, data: bytes) -> list[UsageRecorded]:
    """The facts of a batch, one a project; the same bytes always make the same facts."""
    calls: defaultdict[str, list[CallUsage]] = defaultdict(list)
    for line in data.splitlines():
        try:
            call = CallUsage.model_validate_json(line)
        except ValidationError:
            log.error("usage_line_unreadable", extra={"segment": claim.segment, "offset": claim.start})
            continue
        calls[call.project].append(call)
    return [
        UsageRecorded(
            id=f"{claim.segment}:{claim.start}:{project}", type=UsageRecorded.type_name(), source="finery/gateway",
            subject=f"usage/{claim.segment}-{project}", time=max(call.at for call in mine), project=project,
            nounversion=claim.start, data=UsageBatch(segment=claim.segment, offset=claim.start, calls=mine),
        )
        for project, mine in sorted(calls.items())
    ]  # fmt: skip
