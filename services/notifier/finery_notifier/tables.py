"""The tables of the notifier. No queries here; a row shows a subscription's secret to nobody by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, LargeBinary, MetaData, UniqueConstraint, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from finery_contracts.notifications import DeliveryAttempt, DeliveryView, SubscriptionView, TopicView
from finery_kit.columns import UtcText

NOTIFIER_METADATA = MetaData()
WAITING = text("state = 'waiting'")


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
    template: dict[str, Any] | None = Field(default=None, sa_type=JSON)

    def view(self) -> TopicView:
        """As the world sees it."""
        return TopicView.model_validate(self.model_dump())


class SubscriptionRow(_Table, table=True):
    """An endpoint that hears a topic. ``secret`` signs; of the confirmation's token only the hash is kept here."""

    __tablename__ = "subscription"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("subscription_backfill", "backfill_after"),)
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    topic_id: str = Field(index=True)
    kind: str
    url: str
    endpoint: str
    events: list[str] = Field(sa_type=JSON)
    filter: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    ordered: bool = False
    template: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    description: str
    state: str
    why: str | None = None
    version: int
    created_by: str = ""
    created_at: datetime = Field(sa_type=UtcText)
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcText)
    confirm_until: datetime = Field(sa_type=UtcText)
    failing_since: datetime | None = Field(default=None, sa_type=UtcText)
    dead_in_row: int = 0
    backfill_since: datetime | None = Field(default=None, sa_type=UtcText)
    backfill_after: int | None = Field(default=None, description="cursor in the event log; None: nothing to fetch")
    token_hash: str = Field(index=True)
    link_key: str = Field(default="", description="signs the link that unsubscribes")
    secret: str
    retiring: list[Any] | None = Field(default=None, sa_type=JSON, description="[secret, until] of those rotated out")

    def view(self, *, secret: str | None = None) -> SubscriptionView:
        """As the world sees it; the secret only where it is handed in."""
        told = self.model_dump(exclude={"secret", "filter", "retiring", "link_key", "token_hash"})
        asked = None if self.backfill_since is None else "done" if self.backfill_after is None else "running"
        backfill = "asked" if asked == "running" and self.confirmed_at is None else asked
        return SubscriptionView.model_validate(
            told | {"topic": self.topic_id, "filter": self.filter or {}, "backfill": backfill, "secret": secret}
        )


class DeliveryRow(_Table, table=True):
    """One message to one endpoint. ``due_at``: when a replica may take it (its turn, or the end of a lease), and, once
    it is delivered or dead, when that was."""

    __tablename__ = "delivery"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        UniqueConstraint("subscription_id", "event_id"),
        # What is over leaves these: settling a delivery writes no index anew.
        Index("delivery_waiting", "due_at", "endpoint", sqlite_where=WAITING, postgresql_where=WAITING),
        Index("delivery_waiting_noun", "subscription_id", "noun", sqlite_where=WAITING, postgresql_where=WAITING),
    )
    id: str = Field(primary_key=True)
    project: str
    subscription_id: str
    channel: str = "webhook"
    endpoint: str
    purpose: str
    event_id: str
    event_type: str
    event_at: datetime | None = Field(default=None, sa_type=UtcText)
    noun: str = ""
    noun_version: int = 0
    ordered: bool = False
    subject: str | None = None
    content_type: str | None = None
    body: bytes = Field(sa_type=LargeBinary)
    traceparent: str | None = None
    state: str = "waiting"
    version: int = 1
    attempts: int = 0
    round_start: int = Field(default=0, description="attempts before it was sent off again")
    due_at: datetime = Field(sa_type=UtcText)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcText)
    last_status: int | None = None
    last_error: str | None = None

    def view(self) -> DeliveryView:
        """As the world sees it."""
        return DeliveryView.model_validate(self.told())

    def told(self) -> dict[str, Any]:
        """The fields of the view."""
        return {
            "id": self.id, "project": self.project, "subscription": self.subscription_id, "event": self.event_id,
            "event_type": self.event_type, "event_time": self.event_at, "state": self.state, "attempts": self.attempts,
            "next_attempt_at": self.due_at if self.state == "waiting" else None,
            "delivered_at": self.delivered_at, "last_status": self.last_status, "last_error": self.last_error,
        }  # fmt: skip


class AttemptRow(_Table, table=True):
    """One try, for the delivery log."""

    __tablename__ = "attempt"  # pyright: ignore[reportAssignmentType]
    id: int | None = Field(default=None, primary_key=True)
    delivery_id: str = Field(index=True)
    number: int
    at: datetime = Field(sa_type=UtcText, index=True)
    duration_ms: float
    request_headers: dict[str, str] | None = Field(default=None, sa_type=JSON)
    status: int | None = None
    answer_headers: dict[str, str] | None = Field(default=None, sa_type=JSON)
    answer_body: bytes = Field(default=b"", sa_type=LargeBinary)
    error: str | None = None

    def view(self) -> DeliveryAttempt:
        """As the world sees it."""
        told = self.model_dump(exclude={"answer_body", "request_headers", "answer_headers"})
        return DeliveryAttempt.model_validate(
            told
            | {
                "request_headers": self.request_headers or {}, "answer_headers": self.answer_headers or {},
                "answer_body": self.answer_body.decode("utf-8", "replace"),
            }
        )  # fmt: skip


class MeteredRow(_Table, table=True):
    """How many notifications a project was delivered through a channel in an hour."""

    __tablename__ = "metered"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    channel: str = Field(primary_key=True)
    window: datetime = Field(primary_key=True, sa_type=UtcText)
    count: int
    said: bool = Field(default=False, index=True)


DELIVERIES: Any = DeliveryRow.__table__  # pyright: ignore[reportAttributeAccessIssue]
ATTEMPTS: Any = AttemptRow.__table__  # pyright: ignore[reportAttributeAccessIssue]
