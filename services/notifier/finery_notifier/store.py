"""Tables and queries of the notifier. Every query that serves a person names the project; nothing else opens them.

It refuses to commit, and to hand out a subscription's secret other than to the request that made it and to the sender.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Index, LargeBinary, MetaData, UniqueConstraint, delete, func, or_, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, select

from finery_contracts.errors import NotFound
from finery_contracts.notifications import DeliveryView, SubscriptionState, SubscriptionView, TopicView
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_notifier.domain import Purpose

NOTIFIER_METADATA = MetaData()


class _Table(SQLModel, registry=registry(metadata=NOTIFIER_METADATA)):
    metadata = NOTIFIER_METADATA


class TopicRow(_Table, table=True):
    """A name that facts are sent to."""

    __tablename__ = "topic"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("project", "name"),)
    id: str = Field(primary_key=True)
    project: str
    name: str
    description: str
    created_at: datetime = Field(sa_type=UtcText)

    def view(self) -> TopicView:
        """As the world sees it."""
        return TopicView(
            id=self.id, project=self.project, name=self.name, description=self.description, created_at=self.created_at
        )


class SubscriptionRow(_Table, table=True):
    """An endpoint that hears a topic. ``secret`` signs; of the confirmation's token only the hash is kept here."""

    __tablename__ = "subscription"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    topic_id: str = Field(index=True)
    kind: str
    url: str
    endpoint: str
    events: list[str] = Field(sa_type=JSON)
    description: str
    state: str
    version: int
    created_at: datetime = Field(sa_type=UtcText)
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcText)
    confirm_until: datetime = Field(sa_type=UtcText)
    token_hash: str = Field(index=True)
    secret: str

    def view(self, *, secret: str | None = None) -> SubscriptionView:
        """As the world sees it; the secret only where it is handed in."""
        return SubscriptionView(
            id=self.id, project=self.project, topic=self.topic_id, url=self.url, events=self.events,
            description=self.description, state=SubscriptionState(self.state), version=self.version,
            created_at=self.created_at, secret=secret,
        )  # fmt: skip


class DeliveryRow(_Table, table=True):
    """One message to one endpoint. ``due_at`` is when a replica may take it: its turn, or the end of a lease."""

    __tablename__ = "delivery"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        UniqueConstraint("subscription_id", "event_id"),
        Index("delivery_due", "state", "due_at"),
    )
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    subscription_id: str
    endpoint: str
    purpose: str
    event_id: str
    event_type: str
    body: bytes = Field(sa_type=LargeBinary)
    traceparent: str | None = None
    state: str = "waiting"
    version: int = 1
    attempts: int = 0
    due_at: datetime = Field(sa_type=UtcText)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcText)
    last_status: int | None = None
    last_error: str | None = None

    def view(self) -> DeliveryView:
        """As the world sees it."""
        return DeliveryView.model_validate(
            {
                "id": self.id, "project": self.project, "subscription": self.subscription_id, "event": self.event_id,
                "event_type": self.event_type, "state": self.state, "attempts": self.attempts,
                "next_attempt_at": self.due_at if self.state == "waiting" else None,
                "delivered_at": self.delivered_at, "last_status": self.last_status, "last_error": self.last_error,
            }
        )  # fmt: skip


# --- topics and subscriptions -----------------------------------------------------------------------------------------


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


def topic_ids(session: Session, project: str, refs: Collection[str]) -> list[str]:
    """Ids of those topics of the project that exist, by id or name."""
    named = or_(col(TopicRow.id).in_(refs), col(TopicRow.name).in_(refs))
    return list(session.exec(select(TopicRow.id).where(TopicRow.project == project, named)))


def topics(session: Session, project: str, *, after: str | None, limit: int) -> list[TopicRow]:
    """A page of topics, oldest first."""
    query = select(TopicRow).where(TopicRow.project == project, col(TopicRow.id) > (after or ""))
    return list(session.exec(query.order_by(col(TopicRow.id)).limit(limit)))


def subscription(session: Session, project: str, subscription_id: str) -> SubscriptionRow:
    """By id.

    Raises:
        NotFound: this project has no such subscription.
    """
    row = session.get(SubscriptionRow, subscription_id)
    if row is None or row.project != project:
        raise NotFound(f"there is no subscription {subscription_id[:80]!r}", code="subscription_not_found")
    return row


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


def confirmed(session: Session, project: str, topics: Sequence[str]) -> list[SubscriptionRow]:
    """Those that hear any of these topics."""
    query = select(SubscriptionRow).where(
        SubscriptionRow.project == project,
        SubscriptionRow.state == SubscriptionState.CONFIRMED.value,
        col(SubscriptionRow.topic_id).in_(topics),
    )
    return list(session.exec(query))


def drop_subscriptions(tx: Transaction, project: str, ids: Sequence[str]) -> None:
    """Remove subscriptions with all that was on its way to them."""
    mine = (col(DeliveryRow.project) == project, col(DeliveryRow.subscription_id).in_(ids))
    tx.session.execute(delete(DeliveryRow).where(*mine))
    tx.session.execute(
        delete(SubscriptionRow).where(col(SubscriptionRow.project) == project, col(SubscriptionRow.id).in_(ids))
    )


def subscription_ids(session: Session, project: str, topic_id: str) -> list[str]:
    """Of one topic."""
    query = select(SubscriptionRow.id).where(SubscriptionRow.project == project, SubscriptionRow.topic_id == topic_id)
    return list(session.exec(query))


# --- deliveries -------------------------------------------------------------------------------------------------------


def deliveries(
    session: Session, project: str, subscription_id: str, *, after: str | None, limit: int
) -> list[DeliveryRow]:
    """A page of one subscription's deliveries, newest first."""
    query = select(DeliveryRow).where(DeliveryRow.project == project, DeliveryRow.subscription_id == subscription_id)
    if after:
        query = query.where(col(DeliveryRow.id) < after)
    return list(session.exec(query.order_by(col(DeliveryRow.id).desc()).limit(limit)))


def confirmation_of(session: Session, subscription_id: str) -> DeliveryRow | None:
    """The question that was sent to a subscription's endpoint."""
    query = select(DeliveryRow).where(
        DeliveryRow.subscription_id == subscription_id, DeliveryRow.purpose == Purpose.CONFIRMATION.value
    )
    return session.exec(query).first()


def claim_due(
    tx: Transaction, *, room: int, in_flight: Mapping[str, int], per_endpoint: int, lease_s: float
) -> list[tuple[DeliveryRow, SubscriptionRow]]:
    """Take what is due for ``lease_s`` seconds, at most ``room``, never more than ``per_endpoint`` for an endpoint.

    Safe for several replicas: a row is taken by an update that names the version that was seen.
    """
    taken, mine = Counter(in_flight), list[str]()
    until = tx.now + timedelta(seconds=lease_s)
    while len(mine) < room:
        found = tx.session.execute(
            select(DeliveryRow.id, DeliveryRow.endpoint, DeliveryRow.version)
            .where(DeliveryRow.due_at <= tx.now, *_waiting_for_others(taken, per_endpoint))
            .order_by(col(DeliveryRow.due_at))
            .limit(room - len(mine))
        ).all()
        if not found:
            break
        for delivery_id, endpoint, version in found:
            if taken[endpoint] < per_endpoint and _take(tx, delivery_id, version, until):
                taken[endpoint] += 1
                mine.append(delivery_id)
    query = select(DeliveryRow, SubscriptionRow).where(
        col(DeliveryRow.id).in_(mine), DeliveryRow.subscription_id == SubscriptionRow.id
    )
    return list(tx.session.exec(query.execution_options(populate_existing=True)).all())


def next_due(tx: Transaction, *, in_flight: Mapping[str, int], per_endpoint: int) -> datetime | None:
    """When the next delivery may be taken, of endpoints that have room."""
    query = select(func.min(DeliveryRow.due_at)).where(*_waiting_for_others(in_flight, per_endpoint))
    return tx.session.exec(query).one()


def hasten(tx: Transaction, subscription_id: str) -> None:
    """Make all that waits for a subscription due now, so that it is looked at."""
    waiting = (col(DeliveryRow.subscription_id) == subscription_id, col(DeliveryRow.state) == "waiting")
    tx.session.execute(update(DeliveryRow).where(*waiting, col(DeliveryRow.due_at) > tx.now).values(due_at=tx.now))


def give_back(tx: Transaction, taken: Mapping[str, int]) -> None:
    """End the leases of what was taken (id and version) and not sent, as when a replica stops."""
    for delivery_id, version in taken.items():
        _take(tx, delivery_id, version, tx.now)


def _waiting_for_others(in_flight: Mapping[str, int], per_endpoint: int) -> list[Any]:
    full = [endpoint for endpoint, count in in_flight.items() if count >= per_endpoint]
    return [DeliveryRow.state == "waiting", col(DeliveryRow.endpoint).not_in(full)]


def _take(tx: Transaction, delivery_id: str, version: int, until: datetime) -> bool:
    seen = (col(DeliveryRow.id) == delivery_id, col(DeliveryRow.version) == version)
    changed = tx.session.execute(update(DeliveryRow).where(*seen).values(due_at=until, version=version + 1))
    return isinstance(changed, CursorResult) and changed.rowcount == 1
