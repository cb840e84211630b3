"""What becomes of a subscription after it was made: confirmed, unsubscribed, enabled again, its secret rotated.

Confirming and unsubscribing need no key of the project: the link is the right. It refuses to bring back what its
receiver ended.
"""

from __future__ import annotations

from finery_contracts.errors import Conflict, NotFound
from finery_contracts.notification_requests import (
    ConfirmRequest,
    RotateRequest,
    SubscriptionCommand,
    UnsubscribeRequest,
)
from finery_contracts.notifications import SubscriptionState, SubscriptionView, Unsubscribing
from finery_kit.bus import Call
from finery_kit.db import Transaction
from finery_kit.idempotency import once
from finery_notifier import domain, links, store
from finery_notifier.desk import Desk, hash_of
from finery_notifier.handlers import on_agreed, on_enabled, on_unsubscribed
from finery_notifier.requests import new_secret
from finery_notifier.tables import SubscriptionRow, TopicRow


async def confirm_subscription(desk: Desk, call: Call[ConfirmRequest]) -> SubscriptionView:
    """``subscription.confirm``: the endpoint's owner opened the link. Opening it twice is fine."""

    def work(tx: Transaction) -> SubscriptionView:
        asked = store.subscription_of_token(tx.session, hash_of(call.body.token))
        if asked is not None:
            store.confirmation_of(tx.session, asked.id)
        row = store.locked_subscription(tx.session, asked.id) if asked is not None else None
        if row is None:
            raise NotFound("this confirmation is unknown; open the link as it was sent", code="confirmation_unknown")
        if row.state == SubscriptionState.CONFIRMED:
            return row.view()
        if row.state != SubscriptionState.PENDING:
            raise Conflict(f"this subscription is {row.state}; make a new one", code="illegal_move")
        if tx.now > row.confirm_until:
            raise Conflict("this confirmation has expired; make a new subscription", code="confirmation_expired")
        on_agreed(tx, row)
        return row.view()

    view = await desk.database.write(work)
    desk.wake_relay()
    desk.wake_backfill()
    return view


async def unsubscribing(desk: Desk, call: Call[UnsubscribeRequest]) -> Unsubscribing:
    """``subscription.unsubscribing``: what the link is about; nothing is changed."""

    def query(session: store.Session) -> Unsubscribing:
        row = _genuine(session.get(SubscriptionRow, links.subscription_of(call.body.token)), call.body.token)
        topic = session.get_one(TopicRow, row.topic_id)
        state = SubscriptionState(row.state)
        return Unsubscribing(subscription=row.id, topic=topic.name, to=row.url, state=state)

    return await desk.database.read(query)


async def unsubscribe(desk: Desk, call: Call[UnsubscribeRequest]) -> Unsubscribing:
    """``subscription.unsubscribe``: by the signed link (RFC 8058), as often as one likes."""

    def work(tx: Transaction) -> Unsubscribing:
        found = store.locked_subscription(tx.session, links.subscription_of(call.body.token))
        row = _genuine(found, call.body.token)
        on_unsubscribed(tx, row)
        topic = tx.session.get_one(TopicRow, row.topic_id)
        state = SubscriptionState(row.state)
        return Unsubscribing(subscription=row.id, topic=topic.name, to=row.url, state=state)

    told = await desk.database.write(work)
    desk.wake_relay()
    desk.wake_courier()
    return told


async def enable_subscription(desk: Desk, call: Call[SubscriptionCommand]) -> SubscriptionView:
    """``subscription.enable``: facts go there again from now on. One that nobody ever confirmed stays off."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription(tx.session, call.by.project, call.body.subscription, locked=True)
        if row.state == SubscriptionState.CONFIRMED:
            return row.view()
        if row.state != SubscriptionState.DISABLED or row.confirmed_at is None:
            raise Conflict(f"a subscription that is {row.state} cannot be enabled; make a new one", code="illegal_move")
        on_enabled(tx, row)
        return row.view()

    view = await desk.database.write(lambda tx: once(tx, call.asked, SubscriptionView, work))
    desk.wake_relay()
    return view


async def rotate_secret(desk: Desk, call: Call[RotateRequest]) -> SubscriptionView:
    """``subscription.rotate``: a new secret, shown once; the old one goes on signing until the overlap is over."""

    def work(tx: Transaction) -> SubscriptionView:
        row = store.subscription(tx.session, call.by.project, call.body.subscription, locked=True)
        if row.kind != "webhook":
            raise Conflict("only webhooks are signed; there is no secret to rotate", code="nothing_to_rotate")
        if row.state == SubscriptionState.UNSUBSCRIBED:
            raise Conflict("this subscription is unsubscribed; make a new one", code="illegal_move")
        row.retiring = domain.retire(row.secret, row.retiring, overlap_s=call.body.overlap_s, now=tx.now)
        row.secret = new_secret()
        row.version += 1
        tx.session.add(row)
        return row.view(secret=row.secret)

    return await desk.database.write(lambda tx: once(tx, call.asked, SubscriptionView, work))


def _genuine(row: SubscriptionRow | None, token: str) -> SubscriptionRow:
    if row is None or not links.is_genuine(token, row.id, row.link_key):
        raise NotFound("this link is unknown; open it as it was sent", code="link_unknown")
    return row
