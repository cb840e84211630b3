"""Which upstream events were heard, each with what came of it: an event that comes again gets the same answer."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Text, text
from sqlmodel import Field, col, select

from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_studio.store import StudioTable


class InboundRow(StudioTable, table=True):
    """One event of a project. Its key is a fingerprint: a source may be longer than an index takes."""

    __tablename__ = "inbound_event"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    fingerprint: str = Field(primary_key=True)
    task: str | None = None
    status: int | None = None
    error: str | None = Field(default=None, sa_type=Text)
    heard_at: datetime = Field(sa_type=UtcText, index=True)


def fingerprint(*parts: str) -> str:
    """Of source and id, or of whatever else makes a message what it is."""
    return hashlib.sha256("\n".join(f"{len(part)} {part}" for part in parts).encode("utf-8", "replace")).hexdigest()


def first_time(tx: Transaction, project: str, mark: str) -> InboundRow | None:
    """None for an event that was not heard before; it is now. Else what came of it.

    Two at the same time: the second waits for the first one's commit.
    """
    tx.session.flush()
    heard_at = UtcText().process_bind_param(tx.now, tx.session.get_bind().dialect)
    row = {"project": project, "fingerprint": mark, "heard_at": heard_at}
    if tx.session.connection().execute(_HEAR, row).first() is not None:
        return None
    mine = (col(InboundRow.project) == project, col(InboundRow.fingerprint) == mark)
    return tx.session.exec(select(InboundRow).where(*mine)).one()


def conclude(tx: Transaction, row: InboundRow) -> None:
    """Store what came of it."""
    tx.session.merge(row)


_HEAR = text(
    "insert into inbound_event (project, fingerprint, heard_at) values (:project, :fingerprint, :heard_at) "
    "on conflict do nothing returning fingerprint"
)
