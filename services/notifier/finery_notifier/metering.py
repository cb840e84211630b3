"""How many notifications a project was delivered (SPEC BI5): counted where they are settled, said once an hour.

The fact of an hour is said once; said again it carries the same key, so nobody pays twice. What is settled after its
hour was told counts for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from finery_contracts.notifications import NotificationMetered, NotificationUsage
from finery_kit.db import Database, Transaction
from finery_kit.delivery import emit
from finery_kit.prepared import Prepared
from finery_notifier.tables import MeteredRow

WINDOW = timedelta(hours=1)
GRACE = timedelta(seconds=60)
LOOK_S = 30.0
SAID_AT_ONCE = 200


class Counted(NamedTuple):
    """What is counted together."""

    project: str
    channel: str


def count(tx: Transaction, counts: Mapping[Counted, int]) -> None:
    """Add what was delivered now."""
    for counted in sorted(counts):
        window = window_of(tx.now)
        while not _added(tx, counted, counts[counted], window):
            window += WINDOW


def window_of(moment: datetime) -> datetime:
    """The hour it lies in."""
    return moment.replace(minute=0, second=0, microsecond=0)


def say_closed(tx: Transaction) -> int:
    """Say the hours that are over; how many facts that made."""
    query = select(MeteredRow).where(col(MeteredRow.said).is_(False), col(MeteredRow.window) <= tx.now - WINDOW - GRACE)
    rows = list(tx.session.exec(query.limit(SAID_AT_ONCE).with_for_update(skip_locked=True)))
    for row in rows:
        row.said = True
        tx.session.add(row)
        key = f"{row.project}-{row.channel}-{row.window:%Y%m%d%H}"
        usage = NotificationUsage.model_validate(
            {
                "key": key, "project": row.project, "channel": row.channel, "count": row.count,
                "window_start": row.window, "window_end": row.window + WINDOW,
            }
        )  # fmt: skip
        emit(tx, NotificationMetered, key, project=row.project, version=1, data=usage)
    return len(rows)


async def say_hours(database: Database, wake_relay: Callable[[], None]) -> None:
    """Until cancelled."""
    while True:
        while said := await database.write(say_closed):
            wake_relay()
            if said < SAID_AT_ONCE:
                break
        await asyncio.sleep(LOOK_S)


def _adding(dialect: Any) -> Any:
    statement = dialect.insert(MeteredRow)
    return statement.on_conflict_do_update(
        index_elements=["project", "channel", "window"],
        set_={"count": col(MeteredRow.count) + statement.excluded.count},
        where=col(MeteredRow.said).is_(False),
    ).returning(col(MeteredRow.project))


_ADD = {"postgresql": Prepared(_adding(postgresql)), "sqlite": Prepared(_adding(sqlite))}


def _added(tx: Transaction, counted: Counted, number: int, window: datetime) -> bool:
    """False when this hour was told already."""
    tx.session.flush()
    connection = tx.session.connection()
    adding = _ADD[connection.dialect.name]
    added = adding.execute(
        connection, project=counted.project, channel=counted.channel, window=window, count=number, said=False
    )
    return added.first() is not None
