"""Where projects and keys lie. Of a key only the keyed hash is kept."""

from __future__ import annotations

import json

from sqlalchemy import update
from sqlmodel import Field, Session, col, select

from finery_contracts.access import KeyGrant, Role
from finery_studio.store import StudioTable


class ProjectRow(StudioTable, table=True):
    """A tenant."""

    __tablename__ = "project"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    created_at: str


class KeyRow(StudioTable, table=True):
    """An API key."""

    __tablename__ = "api_key"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    user: str
    role: str
    description: str
    hint: str
    hash: str = Field(unique=True)
    created_at: str
    revoked: bool = False
    told: bool = Field(default=False, index=True)
    groups: str = "[]"


def projects(session: Session) -> list[ProjectRow]:
    """All, oldest first."""
    return list(session.exec(select(ProjectRow).order_by(col(ProjectRow.id))))


def project_named(session: Session, name: str) -> ProjectRow | None:
    """By its unique name."""
    return session.exec(select(ProjectRow).where(ProjectRow.name == name)).first()


def keys(session: Session, project: str, user: str | None = None) -> list[KeyRow]:
    """A project's living keys, oldest first."""
    query = select(KeyRow).where(KeyRow.project == project, col(KeyRow.revoked).is_(False))
    if user is not None:
        query = query.where(KeyRow.user == user)
    return list(session.exec(query.order_by(col(KeyRow.id))))


def untell_keys(session: Session) -> None:
    """Every key is to be told again."""
    session.execute(update(KeyRow).values(told=False))


def untold_keys(session: Session) -> list[tuple[KeyRow, str]]:
    """Keys whose present state the gateways have not been told, with their project's name."""
    query = select(KeyRow, ProjectRow.name).join(ProjectRow, col(ProjectRow.id) == col(KeyRow.project))
    return [(row, name) for row, name in session.exec(query.where(col(KeyRow.told).is_(False)))]


def grant_of_hash(session: Session, hashed: str) -> KeyGrant | None:
    """What a key with this hash may do."""
    query = select(KeyRow, ProjectRow.name).join(ProjectRow, col(ProjectRow.id) == col(KeyRow.project))
    found = session.exec(query.where(KeyRow.hash == hashed, col(KeyRow.revoked).is_(False))).first()
    return grant_of(*found) if found else None


def grant_of(row: KeyRow, project_name: str) -> KeyGrant:
    """The grant of a row."""
    return KeyGrant(
        key=row.id, project=row.project, project_name=project_name, user=row.user, role=Role(row.role),
        groups=json.loads(row.groups),
    )  # fmt: skip
