"""Removes bytes whose time is over: asks whether anything needs them, takes them out of sight, then forgets the place.

Killed at any point it begins again: what is gone already is no fault. It refuses to remove what came anew meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from finery_kit.db import Database, Transaction
from finery_kit.storage import Storage
from finery_studio.removal.store import LeftoverRow, Verdict, due, verdict

log = logging.getLogger("finery.studio.removal")
LOOK_AGAIN = timedelta(minutes=1)


async def sweep(database: Database, storage: Storage) -> int:
    """One round; how many places were emptied."""
    removed = 0
    for row in await database.read(lambda session: due(session, database.now())):
        if await database.write(lambda tx, place=row: _may_go(tx, place, storage)):
            await asyncio.to_thread(storage.delete, row.url)
            log.info("bytes_removed", extra={"place": row.url})
            await database.write(lambda tx, place=row: _forget(tx, place))
            removed += 1
    return removed


def _may_go(tx: Transaction, place: LeftoverRow, storage: Storage) -> bool:
    row = tx.session.get(LeftoverRow, place.url, with_for_update=True, populate_existing=True)
    if row is None or row.due_at != place.due_at:
        return False
    found = verdict(tx.session, row.project, row.url, tx.now)
    if found is Verdict.NEEDED:  # whoever needs it lets it go by itself, later
        tx.session.delete(row)
        return False
    if found is Verdict.BUSY or _came_anew(storage, row, tx.now):
        row.due_at = tx.now + LOOK_AGAIN
        tx.session.add(row)
        return False
    return True


def _came_anew(storage: Storage, row: LeftoverRow, now: datetime) -> bool:
    """A blob is stored under its hash: the same bytes, uploaded again, are about to be registered."""
    path = storage.find(row.url)
    if path is None or not path.is_file():
        return False
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return row.marked_at < written and now < written + 10 * LOOK_AGAIN


def _forget(tx: Transaction, place: LeftoverRow) -> None:
    row = tx.session.get(LeftoverRow, place.url, with_for_update=True, populate_existing=True)
    if row is not None and row.due_at == place.due_at:
        tx.session.delete(row)
