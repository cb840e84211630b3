"""Carries the usage journal to the bus: each line in exactly one message, and the same message again after a crash.

A batch is claimed before it is sent. Its ids come from segment, offset and project, so a batch that is sent twice is
one message to the bus, and one version of one noun to whoever hears it. What a lost stream held is sent again before
anything new; the journal lets go only what everybody has heard who hears usage, and not before the policy's days.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from finery_contracts.envelope import CONTENT_TYPE
from finery_contracts.errors import Unavailable
from finery_contracts.streams import DAY_S, EVENTS, hearers_of
from finery_contracts.usage import CallUsage, UsageBatch, UsageRecorded
from finery_gateway.store import Claim, Journal
from finery_kit.rebuild import Note, Rebuilder, ends_of

log = logging.getLogger("finery.gateway")
BATCH_BYTES = 128 * 1024
FORGET_EVERY_S = 600.0
HEARERS = hearers_of(UsageRecorded.filter_subject())


@dataclass
class Shipper:
    """One a gateway; it is also what a rebuild asks (``Said``). ``stream`` is set when the service is put together."""

    journal: Journal
    jetstream: Callable[[], JetStreamContext]
    interval_s: float
    kept_days: int = 31
    stream: Rebuilder | None = None
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
        if not await self._something_waits():
            return
        try:
            self._check()
        except Unavailable:
            assert self.stream is not None
            await self.stream.look()
        async with self._one_at_a_time:
            while await self._ship_next():
                pass

    # --- after the stream was lost ------------------------------------------------------------------------------------

    async def known(self) -> str | None:
        """See ``Said``."""
        return await asyncio.to_thread(self.journal.stream_born)

    async def remember(self, born: str) -> None:
        """See ``Said``."""
        await asyncio.to_thread(self.journal.save_stream_born, born)

    async def waiting(self) -> int:
        """See ``Said``: a batch that is on its way."""
        return 0 if self._sent else 1

    async def say_again(self, note: Note) -> None:
        """See ``Said``."""
        async with self._one_at_a_time:
            self._begin()
            for claim in await asyncio.to_thread(lambda: list(self.journal.claims())):
                if claim == self._claim and not self._sent:
                    continue  # it is on its way anyhow
                facts = await self._facts(claim)
                lost = [fact for fact in facts if not await self._is_there(fact)]
                for fact in lost:
                    await self._publish(fact)
                note(len(facts), len(lost))

    async def _is_there(self, fact: UsageRecorded) -> bool:
        """Of a subject the stream has a run without a hole, and ids tell the place: segment, offset, project."""
        ends = await ends_of(self.jetstream(), fact.bus_subject)
        if ends is None:
            return False
        first, last = (int(name.split(":", 2)[1]) for name in ends)
        return first <= fact.data.offset <= last

    # --- what is needed no more ---------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Remove old segments from time to time. Until cancelled."""
        while True:
            try:
                await self.forget_heard()
            except Exception as fault:  # the bus is away: they stay
                log.warning("usage_stays", extra={"error": repr(fault)})
            await asyncio.sleep(FORGET_EVERY_S)

    async def forget_heard(self) -> None:
        """Remove what was shipped, is older than the policy's days and was heard by everybody."""
        async with self._one_at_a_time:
            self._begin()
            old = [name for name in self.journal.segments() if self._is_shipped(name) and self._is_old(name)]
            if not old:
                return
            jetstream = self.jetstream()
            info = await jetstream.stream_info(EVENTS.name)
            if str(info.created) != await self.known():
                return  # it is to be said again first
            hearers = [await jetstream.consumer_info(EVENTS.name, durable) for durable in HEARERS]
            heard = min((one.ack_floor.stream_seq if one.ack_floor else 0) for one in hearers)
            for segment in old:
                if await self._last_on_bus(segment) <= heard:
                    await asyncio.to_thread(self.journal.remove, segment)

    def _is_shipped(self, segment: str) -> bool:
        if self._claim is None or segment == self.journal.active or segment > self._claim.segment:
            return False
        if segment < self._claim.segment:
            return True
        return self._sent and not self.journal.read(segment, self._claim.end, BATCH_BYTES)

    def _is_old(self, segment: str) -> bool:
        return self.journal.idle_s(segment) > self.kept_days * DAY_S

    async def _last_on_bus(self, segment: str) -> int:
        """The place of its last message in the stream; 0 when the stream let them all go by its own age."""
        claims = await asyncio.to_thread(lambda: [one for one in self.journal.claims() if one.segment == segment])
        subjects = {fact.bus_subject for claim in claims for fact in await self._facts(claim)}
        last = 0
        for subject in subjects:
            with contextlib.suppress(NotFoundError):
                found = await self.jetstream().get_msg(EVENTS.name, subject=subject, direct=True)
                last = max(last, found.seq or 0)
        return last

    # --- the next batch -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._begun:
            self._claim, self._begun = self.journal.claim(), True
            self._sent = self._claim is None

    async def _something_waits(self) -> bool:
        async with self._one_at_a_time:
            self._begin()
            return not self._sent or await asyncio.to_thread(self._following) is not None

    def _check(self) -> None:
        if self.stream is not None:
            self.stream.check()

    async def _ship_next(self) -> bool:
        """One batch; False when nothing is left."""
        if self._sent:
            following = await asyncio.to_thread(self._following)
            if following is None:
                return False
            await asyncio.to_thread(self.journal.save_claim, following)
            self._claim, self._sent = following, False
        assert self._claim is not None
        try:
            for fact in await self._facts(self._claim):
                self._check()
                await self._publish(fact)
        except Exception:
            if self.stream is not None:
                self.stream.doubt()
            raise
        self._sent = True
        return True

    def _following(self) -> Claim | None:
        """The batch after the present one; segments that never held a line are removed on the way."""
        claim = self._claim
        for segment in self.journal.segments():
            if claim is not None and segment < claim.segment:
                continue
            start = claim.end if claim is not None and claim.segment == segment else 0
            data = self.journal.read(segment, start, BATCH_BYTES)
            if data:
                return Claim(segment=segment, start=start, end=start + len(data))
            if start == 0 and segment != self.journal.active:
                self.journal.remove(segment)
        return None

    async def _facts(self, claim: Claim) -> list[UsageRecorded]:
        if claim.segment not in self.journal.segments():
            return []
        size = claim.end - claim.start
        return events_of(claim, await asyncio.to_thread(self.journal.read, claim.segment, claim.start, size))

    async def _publish(self, fact: UsageRecorded) -> None:
        await self.jetstream().publish(
            fact.bus_subject, fact.model_dump_json().encode(), stream=EVENTS.name,
            headers={"Nats-Msg-Id": fact.id, "content-type": CONTENT_TYPE},
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
