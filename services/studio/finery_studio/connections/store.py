"""Where connections lie: what opens them is sealed, under a key that belongs to this row alone."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import Text
from sqlmodel import Field, Session, col, select

from finery_contracts.connections import ConnectionView
from finery_contracts.errors import NotFound
from finery_kit.sealing import seal, unseal
from finery_studio.store import StudioTable


class ConnectionRow(StudioTable, table=True):
    """One connection."""

    __tablename__ = "connection"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    name: str
    sealed: str = Field(sa_type=Text)
    view: str = Field(sa_type=Text)


def row_of(view: ConnectionView, secret: dict[str, str], key: bytes) -> ConnectionRow:
    """A new row; ``key`` is the installation's secret."""
    sealed = seal(key, view.id, json.dumps(secret))
    return ConnectionRow(id=view.id, project=view.project, name=view.name, sealed=sealed, view=view.model_dump_json())


def secret_of(row: ConnectionRow, key: bytes) -> dict[str, str]:
    """What opens it.

    Raises:
        SealBroken: the installation has another secret now.
    """
    return json.loads(unseal(key, row.id, row.sealed))


def view_of(row: ConnectionRow) -> ConnectionView:
    """The connection as it is shown."""
    return ConnectionView.model_validate_json(row.view)


def of_project(session: Session, project: str) -> list[ConnectionView]:
    """All that a project has, oldest first."""
    return [view_of(row) for row in _rows(session, project)]


def find(session: Session, project: str, ref: str) -> ConnectionRow | None:
    """By id or name."""
    return next((row for row in _rows(session, project) if ref in (row.id, row.name)), None)


def load(session: Session, project: str, ref: str) -> ConnectionRow:
    """By id or name.

    Raises:
        NotFound: this project has none.
    """
    row = find(session, project, ref)
    if row is None:
        raise NotFound(
            f"there is no connection {ref} in this project; register one: finery connections add-s3, …-postgres",
            code="connection_not_found", param="connection",
        )  # fmt: skip
    return row


def _rows(session: Session, project: str) -> Iterable[ConnectionRow]:
    query = select(ConnectionRow).where(ConnectionRow.project == project).order_by(col(ConnectionRow.id))
    return session.exec(query).all()
