"""What runs, a row a task or deployment. A row stays when the thing is over, so that a late fact finds that it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlmodel import Field, Session, select

from finery_billing_meter.deadlines.domain import Live
from finery_billing_meter.ledger.domain import text_of
from finery_billing_meter.ledger.store import Table
from finery_kit.rows import insert_rows


class LiveRow(Table, table=True):
    """The newest that is known. ``next_at``: when there is something to say of its deadline."""

    __tablename__ = "live"  # pyright: ignore[reportAssignmentType]
    noun_id: str = Field(primary_key=True)
    noun: str
    project: str
    name: str
    created_by: str
    flavour: str
    pool: str
    instances: int
    version: int
    limit_s: int | None = None
    used_s: float
    since: str | None = Field(default=None)
    over: bool
    run: int
    before_s: float
    told: str | None = None
    fired: bool
    alarms: int
    begun: bool = True
    next_at: str | None = Field(default=None, index=True)


LIVE: Any = LiveRow.__table__  # pyright: ignore[reportAttributeAccessIssue]
_MOMENTS = ("since", "told")


def known(session: Session, noun_ids: Collection[str]) -> dict[str, Live]:
    """What is known of these, kept from other writers."""
    query = select(LIVE).where(LIVE.c.noun_id.in_(noun_ids)).order_by(LIVE.c.noun_id).with_for_update()
    return {row["noun_id"]: _live(row) for row in session.execute(query).mappings()}


def save(session: Session, lives: Iterable[Live]) -> None:
    """Write what is known now, over what was."""
    rows = sorted((_row(live) for live in lives), key=lambda row: row["noun_id"])  # so that two writers cannot deadlock
    insert_rows(session.connection(), LIVE, rows, known="replace")


def due(session: Session, now: datetime, *, limit: int) -> list[Live]:
    """Those that have something to say, kept from other writers; what another one has at hand is left to it."""
    query = select(LIVE).where(LIVE.c.next_at <= text_of(now)).order_by(LIVE.c.next_at).limit(limit)
    return [_live(row) for row in session.execute(query.with_for_update(skip_locked=True)).mappings()]


def next_at(session: Session) -> datetime | None:
    """When the next one has."""
    found = session.scalar(select(func.min(LIVE.c.next_at)))
    return datetime.fromisoformat(found) if found else None


def running(session: Session, project: str, *, noun_id: str | None = None) -> list[Live]:
    """What runs in a project now."""
    query = select(LIVE).where(LIVE.c.project == project, LIVE.c.since.is_not(None), LIVE.c.over.is_(False))
    if noun_id is not None:
        query = query.where(LIVE.c.noun_id == noun_id)
    return [_live(row) for row in session.execute(query).mappings()]


def _live(row: Any) -> Live:
    fields: dict[str, Any] = {name: row[name] for name in Live._fields}
    for name in _MOMENTS:
        fields[name] = datetime.fromisoformat(fields[name]) if fields[name] else None
    return Live(**fields)


def _row(live: Live) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(Live._fields, live, strict=True))
    for name in _MOMENTS:
        row[name] = text_of(row[name]) if row[name] is not None else None
    row["next_at"] = text_of(live.next_at) if live.next_at is not None else None
    return row
