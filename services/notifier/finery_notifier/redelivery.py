"""The delivery log as people read it, and sending again: one delivery, all since a time, or what happened before.

It refuses to send to who did not agree.
"""

from __future__ import annotations

from sqlmodel import col

from finery_contracts.errors import Conflict
from finery_contracts.notification_requests import (
    BackfillRequest,
    DeliveriesRequest,
    DeliveryCommand,
    RedeliverRequest,
)
from finery_contracts.notifications import (
    DeliveryDetail,
    DeliveryPage,
    DeliveryView,
    Redelivered,
    SubscriptionState,
    SubscriptionView,
)
from finery_kit.bus import Call
from finery_kit.db import Transaction
from finery_kit.idempotency import once
from finery_notifier import deliveries, store
from finery_notifier.desk import Desk, cut
from finery_notifier.domain import Purpose
from finery_notifier.tables import DeliveryRow, SubscriptionRow

STATES = {"dead": ["dead"], "delivered": ["delivered"], "all": ["dead", "delivered"]}


async def list_deliveries(desk: Desk, call: Call[DeliveriesRequest]) -> DeliveryPage:
    """``delivery.list``."""
    project, wanted = call.by.project, call.body

    def query(session: store.Session) -> list[DeliveryRow]:
        row = store.subscription(session, project, wanted.subscription)
        return deliveries.deliveries(
            session, project, row.id, state=wanted.state, after=wanted.after, limit=wanted.limit + 1
        )

    rows = await desk.database.read(query)
    shown, following = cut(rows, wanted.limit)
    return DeliveryPage(data=[row.view() for row in shown], has_more=following is not None, next=following)


async def get_delivery(desk: Desk, call: Call[DeliveryCommand]) -> DeliveryDetail:
    """``delivery.get``: with the request, the answer and the time of every attempt."""

    def query(session: store.Session) -> DeliveryDetail:
        row = deliveries.delivery(session, call.by.project, call.body.delivery)
        log = [attempt.view() for attempt in deliveries.attempts(session, row.id)]
        return DeliveryDetail.model_validate(row.told() | {"size_bytes": len(row.body), "log": log})

    return await desk.database.read(query)


async def redeliver(desk: Desk, call: Call[DeliveryCommand]) -> DeliveryView:
    """``delivery.redeliver``: at once, under its old id, and by the whole schedule again."""

    def work(tx: Transaction) -> DeliveryView:
        row = deliveries.delivery(tx.session, call.by.project, call.body.delivery, locked=True)
        _check_agreed(store.subscription(tx.session, call.by.project, row.subscription_id))
        if row.purpose != Purpose.FACT:
            raise Conflict("this was the question to confirm; make a new subscription", code="not_redeliverable")
        if row.state != "waiting" and not deliveries.again(tx, col(DeliveryRow.id) == row.id):
            raise Conflict(f"this delivery cannot be sent: {row.last_error}", code="not_redeliverable")
        if row.state == "waiting" and row.due_at > tx.now and row.last_error is not None:
            row.due_at = tx.now
            tx.session.add(row)
        tx.session.flush()
        tx.session.refresh(row)
        return row.view()

    view = await desk.database.write(lambda tx: once(tx, call.asked, DeliveryView, work))
    desk.wake_courier()
    return view


async def redeliver_since(desk: Desk, call: Call[RedeliverRequest]) -> Redelivered:
    """``subscription.redeliver``: everything in these states that happened since then."""
    wanted = call.body

    def work(tx: Transaction) -> Redelivered:
        row = store.subscription(tx.session, call.by.project, wanted.subscription)
        _check_agreed(row)
        states = STATES[wanted.state]
        return Redelivered(count=deliveries.again_since(tx, row.id, since=wanted.since, states=states))

    told = await desk.database.write(lambda tx: once(tx, call.asked, Redelivered, work))
    desk.wake_courier()
    return told


async def ask_backfill(desk: Desk, call: Call[BackfillRequest]) -> SubscriptionView:
    """``subscription.backfill``: facts since then, from the event log; what it was sent already is left out."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription(tx.session, call.by.project, call.body.subscription, locked=True)
        if row.state != SubscriptionState.PENDING:
            _check_agreed(row)
        row.backfill_since, row.backfill_after = call.body.since, 0
        tx.session.add(row)
        return row.view()

    view = await desk.database.write(lambda tx: once(tx, call.asked, SubscriptionView, work))
    desk.wake_backfill()
    return view


def _check_agreed(row: SubscriptionRow) -> None:
    if row.state != SubscriptionState.CONFIRMED:
        raise Conflict(f"the subscription is {row.state}; nothing is sent there", code="not_confirmed")
