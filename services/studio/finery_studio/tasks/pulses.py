"""Which attempts have fallen silent. Kept in the database, so that any studio may hear and any may judge.

Time in which no studio was awake and on the bus does not count: nobody could have been heard.
"""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import col, select

from finery_kit.db import Transaction
from finery_studio.tasks.store import PulseRow, TaskRow, WatchRow

GAP_S = 5.0
"""A watch that was not renewed for longer was interrupted; studios renew it every second."""


def begin(tx: Transaction, task_id: str, attempt: int) -> None:
    """A new attempt was claimed: that is its first sign of life."""
    pulse = tx.session.get(PulseRow, task_id) or PulseRow(task=task_id, attempt=attempt, heard_at=tx.now)
    pulse.attempt, pulse.heard_at, pulse.hang_said = attempt, tx.now, False
    tx.session.add(pulse)


def beat(tx: Transaction, task_id: str) -> PulseRow | None:
    """It lives."""
    pulse = tx.session.get(PulseRow, task_id, with_for_update=True)
    if pulse is not None:
        pulse.heard_at = tx.now
        tx.session.add(pulse)
    return pulse


def end(tx: Transaction, task_id: str) -> None:
    """Nobody is expected to be heard any more."""
    pulse = tx.session.get(PulseRow, task_id)
    if pulse is not None:
        tx.session.delete(pulse)


def silent(tx: Transaction, limit_s: float) -> list[tuple[str, int]]:
    """Renew the watch; (task, attempt) of those that were silent for longer than ``limit_s`` of watched time."""
    watch = tx.session.get(WatchRow, 1, with_for_update=True)
    if watch is None:
        watch = WatchRow(id=1, awake_at=tx.now, counts_from=tx.now)
    if not timedelta(0) <= tx.now - watch.awake_at <= timedelta(seconds=GAP_S):
        watch.counts_from = tx.now
    watch.awake_at = tx.now
    tx.session.add(watch)
    deadline = tx.now - timedelta(seconds=limit_s)
    if watch.counts_from >= deadline:
        return []
    query = select(TaskRow.id, TaskRow.attempt).where(
        col(TaskRow.live).is_(True), TaskRow.id == PulseRow.task, PulseRow.heard_at < deadline
    )
    return [(task, attempt) for task, attempt in tx.session.exec(query)]
