"""Where grants lie."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Text
from sqlmodel import Field, Session, col, select

from finery_contracts.envelope import Event
from finery_contracts.errors import NotFound
from finery_contracts.grants import GrantView
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_studio.store import StudioTable


class GrantRow(StudioTable, table=True):
    """One grant; a project has few, so the rest of it is judged in memory."""

    __tablename__ = "access_grant"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    expires_at: datetime | None = Field(default=None, sa_type=UtcText, index=True)
    view: str = Field(sa_type=Text)


def of_project(session: Session, project: str) -> list[GrantView]:
    """All that a project has, oldest first."""
    query = select(GrantRow).where(GrantRow.project == project).order_by(col(GrantRow.id))
    return [GrantView.model_validate_json(row.view) for row in session.exec(query)]


def load(session: Session, project: str, grant_id: str, *, now: datetime) -> GrantView:
    """One of this project that still allows something.

    Raises:
        NotFound: it has none of that id.
    """
    row = session.get(GrantRow, grant_id, with_for_update=True)
    if row is None or row.project != project or (row.expires_at is not None and row.expires_at <= now):
        raise NotFound(f"there is no grant {grant_id} in this project", code="grant_not_found")
    return GrantView.model_validate_json(row.view)


def save(tx: Transaction, view: GrantView, fact: type[Event]) -> GrantView:
    """Store it and say so."""
    row = tx.session.get(GrantRow, view.id) or GrantRow(id=view.id, project=view.project, view="")
    row.expires_at, row.view = view.expires_at, view.model_dump_json()
    tx.session.add(row)
    tx.session.flush()
    emit(tx, fact, view.id, project=view.project, version=view.version, data=view)
    return view


def remove(tx: Transaction, view: GrantView, fact: type[Event]) -> GrantView:
    """Take it away and say so."""
    row = tx.session.get(GrantRow, view.id)
    if row is not None:
        tx.session.delete(row)
        tx.session.flush()
    gone = view.model_copy(update={"version": view.version + 1})
    emit(tx, fact, gone.id, project=gone.project, version=gone.version, data=gone)
    return gone


def over(session: Session, now: datetime, project: str | None = None) -> list[GrantView]:
    """Grants whose time is over."""
    query = select(GrantRow).where(col(GrantRow.expires_at).is_not(None), col(GrantRow.expires_at) <= now)
    if project is not None:
        query = query.where(GrantRow.project == project)
    return [GrantView.model_validate_json(row.view) for row in session.exec(query.limit(1000))]
