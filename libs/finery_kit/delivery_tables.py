"""The tables of delivery, beside every service's own: what it said (outbox), what it heard (inbox), what it was asked
under a key (idempotency). No logic here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, MetaData, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from finery_kit.columns import UtcText

DELIVERY_METADATA = MetaData()


class _Table(SQLModel, registry=registry(metadata=DELIVERY_METADATA)):
    metadata = DELIVERY_METADATA


class OutboxRow(_Table, table=True):
    """One fact, in the very bytes that go on the bus. One that another service said is kept, never said again."""

    __tablename__ = "outbox"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("outbox_project_seq", "project", "seq"),
        Index("outbox_project_time", "project", "created_at"),
    )
    seq: int | None = Field(default=None, primary_key=True)
    event_id: str = Field(unique=True)
    project: str
    noun: str
    noun_id: str = Field(index=True)
    noun_version: int
    type: str
    bus_subject: str
    body: bytes = Field(sa_type=LargeBinary)
    traceparent: str | None = None
    created_at: str
    published: bool = Field(default=False, index=True)
    own: bool = Field(default=True, description="False: heard from its owner, who alone publishes it")


class AboutRow(_Table, table=True):
    """A fact speaks of another noun than its own, too."""

    __tablename__ = "outbox_about"  # pyright: ignore[reportAssignmentType]
    noun_id: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)


class InboxRow(_Table, table=True):
    """A fact that was applied here: by noun and version, so that the same fact under a new id changes nothing."""

    __tablename__ = "inbox"  # pyright: ignore[reportAssignmentType]
    noun: str = Field(primary_key=True)
    noun_id: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    seen_on: str = Field(default="", description="date, UTC")


class InboxFloorRow(_Table, table=True):
    """What is left of old inbox rows: every version of the noun up to this one counts as applied."""

    __tablename__ = "inbox_floor"  # pyright: ignore[reportAssignmentType]
    noun: str = Field(primary_key=True)
    noun_id: str = Field(primary_key=True)
    version: int


class IdempotencyRow(_Table, table=True):
    """A request that came under a key. ``answer`` (JSON) is what was answered; none while another owner is asked."""

    __tablename__ = "idempotency_key"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    key_hash: str = Field(primary_key=True)
    digest: str
    answer: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(sa_type=UtcText, index=True)


class BusSeenRow(_Table, table=True):
    """Which stream of this name the outbox was published to: one that was made anew has lost everything."""

    __tablename__ = "bus_seen"  # pyright: ignore[reportAssignmentType]
    stream: str = Field(primary_key=True)
    born: str
