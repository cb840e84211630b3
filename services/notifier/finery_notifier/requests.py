"""What the notifier answers: topics, subscriptions and their deliveries, each within the project of who asks.

A URL is checked before anything is stored, so that a refused request leaves nothing behind. It refuses to show a secret
to anyone but the request that made it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.exc import IntegrityError

from finery_contracts.errors import Conflict, NotFound
from finery_contracts.ids import new_id
from finery_contracts.notification_requests import (
    ConfirmRequest,
    DeliveriesRequest,
    PageRequest,
    SubscriptionCommand,
    SubscriptionRequest,
    TopicCommand,
    TopicRequest,
)
from finery_contracts.notifications import (
    DeliveryPage,
    SubscriptionConfirmation,
    SubscriptionConfirmationData,
    SubscriptionPage,
    SubscriptionState,
    SubscriptionView,
    TopicPage,
    TopicView,
)
from finery_kit.bus import Call
from finery_kit.db import Database, Transaction
from finery_kit.idempotency import once
from finery_kit.netguard import CheckedUrl, Lookup, Network, check_url, system_lookup
from finery_kit.telemetry import current_traceparent
from finery_notifier import domain, store
from finery_notifier.domain import Purpose
from finery_notifier.handlers import delivery_of, on_agreed
from finery_notifier.store import DeliveryRow, SubscriptionRow, TopicRow

R = TypeVar("R", TopicRow, SubscriptionRow, DeliveryRow)
MAX_TOPICS = MAX_SUBSCRIPTIONS = 1000


@dataclass(frozen=True)
class Desk:
    """What answering needs. ``wake_courier`` and ``wake_relay`` say that something was stored for them."""

    database: Database
    facts: frozenset[str]
    allow: tuple[Network, ...]
    public_url: str
    confirmation_ttl_s: float
    wake_courier: Callable[[], None]
    wake_relay: Callable[[], None]
    lookup: Lookup = system_lookup


async def create_topic(desk: Desk, call: Call[TopicRequest]) -> TopicView:
    """``topic.create``."""
    project, wanted = call.by.project, call.body

    def work(tx: Transaction) -> TopicView:
        _check_room(tx, TopicRow, project, limit=MAX_TOPICS)
        row = TopicRow(
            id=new_id("topic"), project=project, name=wanted.name, description=wanted.description, created_at=tx.now
        )
        taken = Conflict(f"this project has a topic {wanted.name!r} already", code="name_taken", param="name")
        _add(tx, row, taken)
        return row.view()

    return await desk.database.write(lambda tx: once(tx, call.asked, TopicView, work))


async def list_topics(desk: Desk, call: Call[PageRequest]) -> TopicPage:
    """``topic.list``."""
    limit = call.body.limit
    rows = await desk.database.read(
        lambda session: store.topics(session, call.by.project, after=call.body.after, limit=limit + 1)
    )
    shown, following = _cut(rows, limit)
    return TopicPage(data=[row.view() for row in shown], has_more=following is not None, next=following)


async def delete_topic(desk: Desk, call: Call[TopicCommand]) -> TopicView:
    """``topic.delete``: with its subscriptions and all that was on its way to them."""

    def work(tx: Transaction) -> TopicView:
        row = store.topic(tx.session, call.by.project, call.body.topic)
        store.drop_subscriptions(tx, row.project, store.subscription_ids(tx.session, row.project, row.id))
        tx.session.delete(row)
        return row.view()

    return await desk.database.write(work)


async def create_subscription(desk: Desk, call: Call[SubscriptionRequest]) -> SubscriptionView:
    """``subscription.create``: the answer alone carries the secret; the endpoint is asked whether it wants to hear."""
    project = call.by.project
    domain.check_patterns(call.body.events, desk.facts)
    checked = await check_url(call.body.url, allow=desk.allow, lookup=desk.lookup)

    def work(tx: Transaction) -> SubscriptionView:
        topic = store.topic(tx.session, project, call.body.topic)
        _check_room(tx, SubscriptionRow, project, limit=MAX_SUBSCRIPTIONS)
        row = _ask_endpoint(tx, desk, topic, call.body, checked)
        return row.view(secret=row.secret)

    view = await desk.database.write(lambda tx: once(tx, call.asked, SubscriptionView, work))
    desk.wake_courier()
    return view


async def list_subscriptions(desk: Desk, call: Call[PageRequest]) -> SubscriptionPage:
    """``subscription.list``."""
    limit = call.body.limit
    rows = await desk.database.read(
        lambda session: store.subscriptions(session, call.by.project, after=call.body.after, limit=limit + 1)
    )
    shown, following = _cut(rows, limit)
    return SubscriptionPage(data=[row.view() for row in shown], has_more=following is not None, next=following)


async def get_subscription(desk: Desk, call: Call[SubscriptionCommand]) -> SubscriptionView:
    """``subscription.get``."""
    return await desk.database.read(
        lambda session: store.subscription(session, call.by.project, call.body.subscription).view()
    )


async def delete_subscription(desk: Desk, call: Call[SubscriptionCommand]) -> SubscriptionView:
    """``subscription.delete``: with all that was on its way to it."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription(tx.session, call.by.project, call.body.subscription)
        view = row.view()
        store.drop_subscriptions(tx, row.project, [row.id])
        return view

    return await desk.database.write(work)


async def list_deliveries(desk: Desk, call: Call[DeliveriesRequest]) -> DeliveryPage:
    """``delivery.list``."""
    project, wanted = call.by.project, call.body

    def query(session: store.Session) -> list[DeliveryRow]:
        row = store.subscription(session, project, wanted.subscription)
        return store.deliveries(session, project, row.id, after=wanted.after, limit=wanted.limit + 1)

    rows = await desk.database.read(query)
    shown, following = _cut(rows, wanted.limit)
    return DeliveryPage(data=[row.view() for row in shown], has_more=following is not None, next=following)


async def confirm_subscription(desk: Desk, call: Call[ConfirmRequest]) -> SubscriptionView:
    """``subscription.confirm``: the endpoint's owner opened the link. Opening it twice is fine."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription_of_token(tx.session, _hash(call.body.token))
        if row is None:
            raise NotFound("this confirmation is unknown; open the link as it was sent", code="confirmation_unknown")
        if row.state == SubscriptionState.CONFIRMED:
            return row.view()
        if tx.now > row.confirm_until:
            raise Conflict("this confirmation has expired; make a new subscription", code="confirmation_expired")
        on_agreed(tx, row)
        return row.view()

    view = await desk.database.write(work)
    desk.wake_relay()
    return view


def _ask_endpoint(
    tx: Transaction, desk: Desk, topic: TopicRow, wanted: SubscriptionRequest, checked: CheckedUrl
) -> SubscriptionRow:
    """Store the subscription together with the question to its endpoint."""
    token = secrets.token_urlsafe(32)
    row = SubscriptionRow(
        id=new_id("sub"), project=topic.project, topic_id=topic.id, kind=wanted.kind, url=checked.url,
        endpoint=checked.origin, events=wanted.events, description=wanted.description,
        state=SubscriptionState.PENDING.value, version=1, created_at=tx.now,
        confirm_until=tx.now + timedelta(seconds=desk.confirmation_ttl_s), token_hash=_hash(token),
        secret="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
    )  # fmt: skip
    question = SubscriptionConfirmation(
        id=new_id("evt"), type=SubscriptionConfirmation.type_name(), source="finery/notifier",
        subject=f"subscription/{row.id}", time=tx.now, project=row.project, nounversion=row.version,
        traceparent=current_traceparent(),
        data=SubscriptionConfirmationData(
            subscription=row.id, topic=topic.name, confirm_url=f"{desk.public_url}/confirm/{token}", token=token
        ),
    )  # fmt: skip
    tx.session.add(row)
    tx.session.add(delivery_of(tx, row, Purpose.CONFIRMATION, question, question.model_dump_json().encode()))
    return row


def _cut(rows: list[R], limit: int) -> tuple[list[R], str | None]:
    """A page out of one row more than a page, and where the next one begins."""
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def _check_room(tx: Transaction, table: type[TopicRow] | type[SubscriptionRow], project: str, *, limit: int) -> None:
    if store.count_of(tx.session, table, project) >= limit:
        noun = "topics" if table is TopicRow else "subscriptions"
        raise Conflict(f"this project has {limit} {noun}, which is the limit; delete some", code="limit_reached")


def _add(tx: Transaction, row: TopicRow, taken: Conflict) -> None:
    tx.session.add(row)
    try:
        tx.session.flush()
    except IntegrityError as fault:
        raise taken from fault


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
