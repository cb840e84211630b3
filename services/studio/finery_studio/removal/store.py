"""Places in the store that nothing may need any longer, and the question whether something still does.

A row is a suspicion, never a verdict: whoever sweeps asks again. It refuses to call a place unneeded that a living or
restorable model or data set names, an upload that waits for its use, or the spec of a task that has not ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy import func
from sqlmodel import Field, Session, col, or_, select

from finery_contracts.datasets import DatasetState
from finery_contracts.models import ModelState
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_studio.datasets.store import DatasetRow
from finery_studio.models.store import ModelRow
from finery_studio.store import StudioTable
from finery_studio.tasks.store import TaskRow
from finery_studio.uploads.store import waits_for_use

AT_A_TIME = 50
SETTLE = timedelta(seconds=2)
"""So that bytes that are being registered at this moment are."""
MADE_LATER = timedelta(hours=1)
"""Of bytes that are put down before the transaction that registers them: whoever dies in between leaves nothing."""


class Verdict(Enum):
    """What is to become of a place."""

    NEEDED = "needed"
    BUSY = "busy"
    FREE = "free"


class LeftoverRow(StudioTable, table=True):
    """A place in the store that was let go."""

    __tablename__ = "leftover"  # pyright: ignore[reportAssignmentType]
    url: str = Field(primary_key=True)
    project: str
    marked_at: datetime = Field(sa_type=UtcText)
    due_at: datetime = Field(sa_type=UtcText, index=True)


def let_go(tx: Transaction, project: str, urls: Iterable[str | None], *, at: datetime | None = None) -> None:
    """What these places hold goes at that time (default: at once), unless something needs it then.

    Of two who let go of the same place the later one counts: the place may be restored until then.
    """
    for url in sorted({url for url in urls if url}):
        row = tx.session.get(LeftoverRow, url, with_for_update=True) or LeftoverRow(
            url=url, project=project, marked_at=tx.now, due_at=tx.now
        )
        row.marked_at, row.due_at = tx.now, max(row.due_at, (at or tx.now) + SETTLE)
        tx.session.add(row)


def settled(tx: Transaction, urls: Iterable[str]) -> None:
    """What was put down beforehand is registered by now, or never will be; which, is asked at once."""
    for url in sorted(urls):
        row = tx.session.get(LeftoverRow, url, with_for_update=True)
        if row is not None:
            row.due_at = min(row.due_at, tx.now + SETTLE)
            tx.session.add(row)


def taken_back(tx: Transaction, project: str, urls: Iterable[str | None]) -> None:
    """A model that names these places was restored: of its deletion no time is left over for its next one.

    They are looked at when the last other deleted model that names them cannot come back any longer.
    """
    for url in sorted({url for url in urls if url}):
        row = tx.session.get(LeftoverRow, url, with_for_update=True)
        if row is not None:
            others = select(func.max(ModelRow.restorable_until)).where(
                ModelRow.project == project, ModelRow.state == ModelState.DELETED,
                col(ModelRow.view).contains(_needle(url), autoescape=True),
            )  # fmt: skip
            last = tx.session.exec(others).first()
            row.due_at = max(tx.now, datetime.fromisoformat(last) if last else tx.now) + SETTLE
            tx.session.add(row)


def due(session: Session, now: datetime) -> list[LeftoverRow]:
    """What is to be looked at, oldest first."""
    query = select(LeftoverRow).where(col(LeftoverRow.due_at) <= now).order_by(col(LeftoverRow.due_at))
    return list(session.exec(query.limit(AT_A_TIME)))


def verdict(session: Session, project: str, url: str, now: datetime) -> Verdict:
    """Whether something needs what lies at or below this place."""
    unfinished = col(TaskRow.state).in_(["created", "queued", "preparing", "running"])
    working = select(TaskRow.id).where(
        TaskRow.project == project, unfinished, col(TaskRow.spec).contains(url, autoescape=True)
    )
    if session.exec(working).first() is not None:
        return Verdict.BUSY
    moment = now.isoformat()
    models = select(ModelRow.id).where(
        ModelRow.project == project, col(ModelRow.view).contains(_needle(url), autoescape=True),
        or_(ModelRow.state != ModelState.DELETED, col(ModelRow.restorable_until) > moment),
    )  # fmt: skip
    named = or_(col(DatasetRow.view).contains(url, autoescape=True), DatasetRow.blob == url)
    datasets = select(DatasetRow.id).where(
        DatasetRow.project == project, named,
        or_(DatasetRow.state != DatasetState.DELETED, col(DatasetRow.restorable_until) > moment),
    )  # fmt: skip
    found = (
        session.exec(models).first() is not None
        or session.exec(datasets).first() is not None
        or waits_for_use(session, url)
    )
    return Verdict.NEEDED if found else Verdict.FREE


def _needle(url: str) -> str:
    """What a model that needs this place says: its address, or for checkpoints the task, since any may be published."""
    _, _, below = url.partition("/tasks/")
    return below.partition("/")[0] if url.endswith("/checkpoints") else url


def root_of(url: str | None) -> str | None:
    """The folder that goes with a piece of a task's output: all of ``out/``; of anything else, the place itself."""
    if url is None:
        return None
    head, found, _ = url.partition("/left/out/")
    return f"{head}/left/out" if found else url
