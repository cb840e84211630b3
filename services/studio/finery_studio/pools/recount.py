"""Makes the counts anew from the tasks, at every start: a count that is wrong is mended and told."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import sqlalchemy as sql
from sqlalchemy import case, null, text, update
from sqlmodel import Session, col, func, or_, select

from finery_contracts.tasks import ENDED
from finery_kit.db import Transaction
from finery_studio.pools.counts import Spot, Standing
from finery_studio.pools.store import CountRow
from finery_studio.tasks.store import TaskRow

log = logging.getLogger("finery.studio.pools")


def recount(tx: Transaction) -> int:
    """Mend what is wrong; how many counts were. On Postgres nobody else changes counts meanwhile."""
    if tx.session.get_bind().dialect.name == "postgresql":
        tx.session.execute(text("lock table task_count in share row exclusive mode"))
    _stand_right(tx.session)
    true, told = _true(tx.session), _told(tx.session)
    wrong = {spot for spot, _ in {*true, *told} if any(true[spot, s] != told[spot, s] for s in Standing)}
    for spot in sorted(wrong):
        pool, flavour, kind, project = spot
        tx.session.merge(
            CountRow(
                pool=pool, flavour=flavour, kind=kind, project=project, held=true[spot, Standing.HELD],
                waiting=true[spot, Standing.WAITING], running=true[spot, Standing.RUNNING],
            )
        )  # fmt: skip
    if wrong:
        log.warning("counts_mended", extra={"counts": len(wrong)})
    tx.session.flush()
    return len(wrong)


def drift(session: Session) -> list[str]:
    """What differs between the tasks and their counts, in words; nothing when all is well."""
    true, told = _true(session), _told(session)
    keys = sorted(key for key in {*true, *told} if true[key] != told[key])
    return [
        f"{'/'.join(spot)} {standing}: {told[spot, standing]}, not {true[spot, standing]}" for spot, standing in keys
    ]


def _stand_right(session: Session) -> None:
    """Rows of an older version do not know how they are counted."""
    stands = case(
        (col(TaskRow.state).in_(_ENDED), null()),
        (col(TaskRow.live).is_(True), Standing.RUNNING.value),
        (col(TaskRow.claimable).is_(True), Standing.WAITING.value),
        else_=Standing.HELD.value,
    )
    wrong = or_(col(TaskRow.state).not_in(_ENDED), col(TaskRow.counted).is_not(None))
    rows = update(TaskRow).where(wrong, col(TaskRow.counted).is_distinct_from(stands))
    session.execute(rows.values(counted=stands), execution_options={"synchronize_session": False})


def _true(session: Session) -> Counter[tuple[Spot, Standing]]:
    place: Any = (TaskRow.pool, TaskRow.flavour, TaskRow.kind, TaskRow.project, TaskRow.counted)
    query = sql.select(*place, func.count()).where(col(TaskRow.counted).is_not(None)).group_by(*place)
    found = Counter[tuple[Spot, Standing]]()
    for pool, flavour, kind, project, counted, number in session.execute(query):
        found[(pool, flavour, kind, project), Standing(counted)] = number
    return found


def _told(session: Session) -> Counter[tuple[Spot, Standing]]:
    found = Counter[tuple[Spot, Standing]]()
    for row in session.exec(select(CountRow)):
        for standing in Standing:
            found[(row.pool, row.flavour, row.kind, row.project), standing] = getattr(row, standing)
    return found


_ENDED = sorted(map(str, ENDED))
