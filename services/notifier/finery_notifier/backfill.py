"""Facts of the past for a subscription that asked for them: pages of the event log, turned into deliveries.

The cursor moves in the transaction that stores a page's deliveries, so it can be killed at any time; what the
subscription has already is left out by its key. It refuses to run ahead of what the endpoint takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from pydantic import ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.envelope import Event
from finery_contracts.errors import FineryError
from finery_contracts.log import LogPage, LogRequest
from finery_contracts.notifications import SubscriptionState
from finery_contracts.registry import UnknownEventType, parse_event
from finery_kit.db import Database, Transaction
from finery_notifier import deliveries, store
from finery_notifier.handlers import delivery_of, on_died, wants
from finery_notifier.tables import SubscriptionRow, TopicRow

log = logging.getLogger("finery.notifier")
PAGE, MOST_WAITING, AT_ONCE = 200, 2000, 50
POLL_S = 5.0
ReadLog = Callable[[LogRequest, Actor], Awaitable[LogPage]]


@dataclass(frozen=True)
class Owed:
    """A page to fetch."""

    subscription: str
    request: LogRequest
    actor: Actor


class Backfill:
    """The loop. ``kinds`` are the facts that subscriptions can hear at all."""

    def __init__(
        self, database: Database, read_log: ReadLog, kinds: Collection[type[Event]], *, wake_courier: Callable[[], None]
    ) -> None:
        self._database, self._read_log, self._kinds = database, read_log, frozenset(kinds)
        self._wake_courier = wake_courier
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Somebody asked, or agreed."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                while await self.fetch_pages():
                    pass
            except FineryError as fault:  # studio or the database is away: the cursor stays where it is
                log.warning("backfill_waits", extra={"error": fault.message})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()

    async def fetch_pages(self) -> bool:
        """A page for each that is owed some; True when there is more to do now."""
        owed = await self._database.read(self._owed)
        more = False
        for page in owed:
            found = await self._read_log(page.request, page.actor)
            more |= await self._database.write(lambda tx, page=page, found=found: self._store(tx, page, found))
            self._wake_courier()
        return more

    def _owed(self, session: store.Session) -> list[Owed]:
        found = list[Owed]()
        for subscription_id in store.to_backfill(session, limit=AT_ONCE):
            row = session.get_one(SubscriptionRow, subscription_id)
            if deliveries.waiting_for(session, row.id) >= MOST_WAITING:
                continue
            request = LogRequest(after=row.backfill_after or 0, since=row.backfill_since, limit=PAGE)
            actor = Actor(project=row.project, project_name="", user="notifier", key="notifier", role=Role.READ)
            found.append(Owed(row.id, request, actor))
        return found

    def _store(self, tx: Transaction, page: Owed, found: LogPage) -> bool:
        """The deliveries of a page and the cursor behind it; False when that was the last, or somebody else did it."""
        row = store.locked_subscription(tx.session, page.subscription)
        if row is None or row.state != SubscriptionState.CONFIRMED or row.backfill_after != page.request.after:
            return False
        if row.backfill_since != page.request.since:
            return True
        listener = row, tx.session.get_one(TopicRow, row.topic_id)
        events = [event for item in found.data if (event := self._known(item.event)) is not None]
        rows = [delivery_of(tx, listener, event, body) for event, body in events if wants(listener, event)]
        row.backfill_after = found.next if found.has_more else None
        tx.session.add(row)
        deliveries.add(tx, rows)
        for made in rows:
            if made.state == "dead":
                on_died(tx, made)
        return found.has_more

    def _known(self, told: dict[str, object]) -> tuple[Event, bytes] | None:
        body = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
        try:
            event = parse_event(body)
        except (UnknownEventType, ValidationError):
            return None
        return (event, body) if type(event) in self._kinds else None
