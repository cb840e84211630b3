"""Queries for topics and subscriptions. Every query that serves a person names the project; nothing else opens them.

It refuses to commit. What is on its way lies in ``queue``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, or_, update
from sqlalchemy import select as sql_select
from sqlmodel import Session, col, select

from finery_contracts.errors import NotFound
from finery_contracts.notifications import SubscriptionState
from finery_kit.db import Transaction
from finery_kit.prepared import Prepared, among
from finery_notifier.domain import Purpose
from finery_notifier.tables import AttemptRow, DeliveryRow, SubscriptionRow, TopicRow


def topic(session: Session, project: str, ref: str) -> TopicRow:
    """By id, or else by name.

    Raises:
        NotFound: this project has no such topic.
    """
    query = select(TopicRow).where(TopicRow.project == project, or_(col(TopicRow.id) == ref, col(TopicRow.name) == ref))
    rows = sorted(session.exec(query), key=lambda row: row.id != ref)
    if not rows:
        raise NotFound(f"there is no topic {ref[:255]!r} in this project; list them or make it", code="topic_not_found")
    return rows[0]


def topics(session: Session, project: str, *, after: str | None, limit: int) -> list[TopicRow]:
    """A page of topics, oldest first."""
    query = select(TopicRow).where(TopicRow.project == project, col(TopicRow.id) > (after or ""))
    return list(session.exec(query.order_by(col(TopicRow.id)).limit(limit)))


def subscription(session: Session, project: str, subscription_id: str, *, locked: bool = False) -> SubscriptionRow:
    """By id; ``locked`` to the end of the transaction.

    Raises:
        NotFound: this project has no such subscription.
    """
    row = session.get(SubscriptionRow, subscription_id, with_for_update=locked or None)
    if row is None or row.project != project:
        raise NotFound(f"there is no subscription {subscription_id[:80]!r}", code="subscription_not_found")
    return row


def locked_subscription(session: Session, subscription_id: str) -> SubscriptionRow | None:
    """For who settles an attempt, a link or a backfill; None when it was deleted meanwhile."""
    return session.get(SubscriptionRow, subscription_id, with_for_update=True, populate_existing=True)


def subscription_of_token(session: Session, token_hash: str) -> SubscriptionRow | None:
    """The one that was asked with this token."""
    return session.exec(select(SubscriptionRow).where(SubscriptionRow.token_hash == token_hash)).first()


def subscriptions(session: Session, project: str, *, after: str | None, limit: int) -> list[SubscriptionRow]:
    """A page of subscriptions, oldest first."""
    query = select(SubscriptionRow).where(SubscriptionRow.project == project, col(SubscriptionRow.id) > (after or ""))
    return list(session.exec(query.order_by(col(SubscriptionRow.id)).limit(limit)))


def count_of(session: Session, table: type[TopicRow] | type[SubscriptionRow], project: str) -> int:
    """How many a project has."""
    return session.exec(select(func.count()).select_from(table).where(col(table.project) == project)).one()


def listeners(
    session: Session, projects: Collection[str], refs: Collection[str]
) -> list[tuple[SubscriptionRow, TopicRow]]:
    """The confirmed subscriptions of these projects whose topic is named, by id or name, with their topics."""
    query = select(SubscriptionRow, TopicRow).where(
        SubscriptionRow.topic_id == TopicRow.id,
        SubscriptionRow.project == TopicRow.project,
        col(SubscriptionRow.project).in_(projects),
        SubscriptionRow.state == SubscriptionState.CONFIRMED.value,
        or_(col(TopicRow.id).in_(refs), col(TopicRow.name).in_(refs)),
    )
    return list(session.exec(query).all())


def confirmed_of_project(session: Session, project: str) -> list[tuple[SubscriptionRow, TopicRow]]:
    """All confirmed subscriptions of a project, with their topics."""
    query = select(SubscriptionRow, TopicRow).where(
        SubscriptionRow.topic_id == TopicRow.id,
        SubscriptionRow.project == project,
        SubscriptionRow.state == SubscriptionState.CONFIRMED.value,
    )
    return list(session.exec(query).all())


def drop_subscriptions(tx: Transaction, project: str, ids: Sequence[str]) -> None:
    """Remove subscriptions with all that was on its way to them, and the log of it."""
    mine = (col(DeliveryRow.project) == project, col(DeliveryRow.subscription_id).in_(ids))
    gone = select(DeliveryRow.id).where(*mine)
    tx.session.execute(delete(AttemptRow).where(col(AttemptRow.delivery_id).in_(gone)))
    tx.session.execute(delete(DeliveryRow).where(*mine))
    tx.session.execute(
        delete(SubscriptionRow).where(col(SubscriptionRow.project) == project, col(SubscriptionRow.id).in_(ids))
    )


def subscription_ids(session: Session, project: str, topic_id: str) -> list[str]:
    """Of one topic."""
    query = select(SubscriptionRow.id).where(SubscriptionRow.project == project, SubscriptionRow.topic_id == topic_id)
    return list(session.exec(query))


def confirmation_of(session: Session, subscription_id: str) -> DeliveryRow | None:
    """The question that was sent to a subscription's endpoint, locked: who settles it takes it first, too."""
    query = select(DeliveryRow).where(
        DeliveryRow.subscription_id == subscription_id, DeliveryRow.purpose == Purpose.CONFIRMATION.value
    )
    return session.exec(query.with_for_update().execution_options(populate_existing=True)).first()


# Built once: it runs with every batch of deliveries, and building it costs more than running it.
_FAILING = Prepared(
    sql_select(col(SubscriptionRow.id))
    .where(
        among(col(SubscriptionRow.id), "ids"),
        or_(col(SubscriptionRow.failing_since).is_not(None), col(SubscriptionRow.dead_in_row) > 0),
    )
    .order_by(col(SubscriptionRow.id))
    .with_for_update()
)


def answering_again(tx: Transaction, ids: Collection[str]) -> None:
    """These endpoints took a delivery: what failed before counts no more."""
    if not ids:
        return
    mine = [row[0] for row in _FAILING.rows(tx.session.connection(), ids=sorted(ids))]
    if mine:
        tx.session.execute(
            update(SubscriptionRow).where(col(SubscriptionRow.id).in_(mine)).values(failing_since=None, dead_in_row=0)
        )


def to_backfill(session: Session, *, limit: int) -> list[str]:
    """Confirmed subscriptions that are owed facts of the past."""
    query = select(SubscriptionRow.id).where(
        col(SubscriptionRow.backfill_after).is_not(None), SubscriptionRow.state == SubscriptionState.CONFIRMED.value
    )
    return list(session.exec(query.order_by(col(SubscriptionRow.id)).limit(limit)))
