"""What the notifier answers: topics and subscriptions, each within the project of who asks.

An address is checked before anything is stored, so that a refused request leaves nothing behind. It refuses to show a
secret to anyone but the request that made it.
"""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError

from finery_contracts.envelope import CONTENT_TYPE
from finery_contracts.errors import Conflict
from finery_contracts.ids import new_id
from finery_contracts.notification_requests import (
    PageRequest,
    SubscriptionCommand,
    SubscriptionRequest,
    TopicCommand,
    TopicRequest,
)
from finery_contracts.notifications import (
    SubscriptionConfirmation,
    SubscriptionConfirmationData,
    SubscriptionPage,
    SubscriptionState,
    SubscriptionView,
    Template,
    TopicPage,
    TopicView,
)
from finery_kit.bus import Call
from finery_kit.db import Transaction
from finery_kit.idempotency import once
from finery_kit.telemetry import current_traceparent
from finery_notifier import deliveries, domain, links, store
from finery_notifier.addresses import Address, address_of
from finery_notifier.desk import MAX_SUBSCRIPTIONS, MAX_TOPICS, Desk, check_room, cut, hash_of
from finery_notifier.filters import check_filter
from finery_notifier.handlers import question_of
from finery_notifier.letters import TEXT, Letter, check_template
from finery_notifier.tables import SubscriptionRow, TopicRow


async def create_topic(desk: Desk, call: Call[TopicRequest]) -> TopicView:
    """``topic.create``."""
    project, wanted = call.by.project, call.body
    template = _checked(wanted.template)

    def work(tx: Transaction) -> TopicView:
        check_room(tx, TopicRow, project, limit=MAX_TOPICS)
        row = TopicRow(
            id=new_id("topic"), project=project, name=wanted.name, description=wanted.description,
            created_at=tx.now, template=template,
        )  # fmt: skip
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
    shown, following = cut(rows, limit)
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
    project, wanted = call.by.project, call.body
    domain.check_patterns(wanted.events, desk.facts)
    check_filter(wanted.filter, desk.fields)
    template = _checked(wanted.template)
    address = await address_of(desk, wanted)

    def work(tx: Transaction) -> SubscriptionView:
        topic = store.topic(tx.session, project, wanted.topic)
        check_room(tx, SubscriptionRow, project, limit=MAX_SUBSCRIPTIONS)
        row, token = _subscription(tx, desk, topic, wanted, address)
        row.created_by, row.template = call.by.user, template
        tx.session.add(row)
        _ask(tx, desk, topic, row, token)
        return row.view(secret=row.secret if row.kind == "webhook" else None)

    view = await desk.database.write(lambda tx: once(tx, call.asked, SubscriptionView, work))
    desk.wake_courier()
    return view


async def list_subscriptions(desk: Desk, call: Call[PageRequest]) -> SubscriptionPage:
    """``subscription.list``."""
    limit = call.body.limit
    rows = await desk.database.read(
        lambda session: store.subscriptions(session, call.by.project, after=call.body.after, limit=limit + 1)
    )
    shown, following = cut(rows, limit)
    return SubscriptionPage(data=[row.view() for row in shown], has_more=following is not None, next=following)


async def get_subscription(desk: Desk, call: Call[SubscriptionCommand]) -> SubscriptionView:
    """``subscription.get``."""
    return await desk.database.read(
        lambda session: store.subscription(session, call.by.project, call.body.subscription).view()
    )


async def delete_subscription(desk: Desk, call: Call[SubscriptionCommand]) -> SubscriptionView:
    """``subscription.delete``: with all that was on its way to it, and the log."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription(tx.session, call.by.project, call.body.subscription)
        view = row.view()
        store.drop_subscriptions(tx, row.project, [row.id])
        return view

    return await desk.database.write(work)


def new_secret() -> str:
    """As Standard Webhooks spells it: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _subscription(
    tx: Transaction, desk: Desk, topic: TopicRow, wanted: SubscriptionRequest, address: Address
) -> tuple[SubscriptionRow, str]:
    """The row, and the token that its owner will confirm with."""
    token = secrets.token_urlsafe(32)
    backfill = wanted.backfill_since
    row = SubscriptionRow(
        id=new_id("sub"), project=topic.project, topic_id=topic.id, kind=wanted.kind, url=address.url,
        endpoint=address.endpoint, events=wanted.events, filter=dict(wanted.filter) or None, ordered=wanted.ordered,
        description=wanted.description, state=SubscriptionState.PENDING.value, version=1, created_at=tx.now,
        confirm_until=tx.now + timedelta(seconds=desk.confirmation_ttl_s), token_hash=hash_of(token),
        backfill_since=backfill, backfill_after=0 if backfill else None, link_key=secrets.token_hex(32),
        secret=new_secret(),
    )  # fmt: skip
    return row, token


def _ask(tx: Transaction, desk: Desk, topic: TopicRow, row: SubscriptionRow, token: str) -> None:
    """Store the question to the endpoint."""
    data = SubscriptionConfirmationData(
        subscription=row.id, topic=topic.name, confirm_url=f"{desk.public_url}/confirm/{token}", token=token,
        unsubscribe_url=links.unsubscribe_url(desk.public_url, row.id, row.link_key),
    )  # fmt: skip
    question = SubscriptionConfirmation(
        id=new_id("evt"), type=SubscriptionConfirmation.type_name(), source="finery/notifier",
        subject=f"subscription/{row.id}", time=tx.now, project=row.project, nounversion=row.version,
        traceparent=current_traceparent(), data=data,
    )  # fmt: skip
    letter = Letter("", CONTENT_TYPE, question.model_dump_json().encode())
    if row.kind != "webhook":
        letter = Letter("[Finery] confirm your subscription", TEXT, _in_words(data).encode())
    deliveries.add(tx, [question_of(tx, row, question, letter)])


def _in_words(data: SubscriptionConfirmationData) -> str:
    return (
        f"Somebody asked Finery to tell this address of what happens in its topic {data.topic}.\n\n"
        f"To agree, open this link:\n{data.confirm_url}\n\n"
        f"Nothing will be sent before that. If you do not know what this is about, do nothing, or make sure with:\n"
        f"{data.unsubscribe_url}\n"
    )


def _checked(template: Template | None) -> dict[str, Any] | None:
    if template is None:
        return None
    check_template(template)
    return template.model_dump()


def _add(tx: Transaction, row: TopicRow, taken: Conflict) -> None:
    tx.session.add(row)
    try:
        tx.session.flush()
    except IntegrityError as fault:
        raise taken from fault
