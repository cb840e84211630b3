"""What is on its way: taking what is due, settling what came of it, the log, and sending off again.

Many rows a statement: a delivery costs a fraction of its request. A row that is taken is held with a lease in
``due_at``, so several replicas may run and any may be killed. It refuses to commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Update, bindparam, delete, func, insert, not_, or_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from finery_contracts.errors import NotFound
from finery_kit.db import Transaction
from finery_notifier.tables import AttemptRow, DeliveryRow, SubscriptionRow

Limit = Callable[[str], int]
"""Endpoint → how many attempts it may have under way."""
PRUNED_AT_ONCE = 1000


def add(tx: Transaction, rows: Sequence[DeliveryRow]) -> None:
    """Store deliveries; one that the subscription has already is left as it is."""
    if not rows:
        return
    tx.session.flush()
    dialect = postgresql if tx.session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(DeliveryRow).on_conflict_do_nothing(index_elements=["subscription_id", "event_id"])
    tx.session.connection().execute(statement, [row.model_dump() for row in rows])


def claim_due(
    tx: Transaction, *, room: int, in_flight: Mapping[str, int], limit: Limit, closed: Collection[str], lease_s: float
) -> list[tuple[DeliveryRow, SubscriptionRow]]:
    """Take what is due for ``lease_s`` seconds, at most ``room``, never more for an endpoint than its limit.

    Safe for several replicas: rows are locked, and those that another one holds are passed over.
    """
    taken, mine = Counter(in_flight), list[str]()
    while len(mine) < room:
        query = (
            select(DeliveryRow.id, DeliveryRow.endpoint)
            .where(col(DeliveryRow.due_at) <= tx.now, col(DeliveryRow.id).not_in(mine), *_open(taken, limit, closed))
            .order_by(col(DeliveryRow.due_at), col(DeliveryRow.id))
            .limit(2 * (room - len(mine)))
            .with_for_update(skip_locked=True, of=DeliveryRow)
        )
        found = tx.session.execute(query).all()
        before = len(mine)
        for delivery_id, endpoint in found:
            if len(mine) < room and taken[endpoint] < limit(endpoint):
                taken[endpoint] += 1
                mine.append(delivery_id)
        if len(mine) == before:
            break
    return _taken(tx, mine, tx.now + timedelta(seconds=lease_s))


def _taken(tx: Transaction, ids: Sequence[str], until: datetime) -> list[tuple[DeliveryRow, SubscriptionRow]]:
    if not ids:
        return []
    mine = col(DeliveryRow.id).in_(ids)
    version = col(DeliveryRow.version) + 1
    tx.session.execute(
        update(DeliveryRow).where(mine).values(due_at=until, version=version),
        execution_options={"synchronize_session": False},
    )
    query = select(DeliveryRow, SubscriptionRow).where(mine, DeliveryRow.subscription_id == SubscriptionRow.id)
    found = tx.session.exec(query.execution_options(populate_existing=True)).all()
    order = {delivery_id: place for place, delivery_id in enumerate(ids)}
    return sorted(found, key=lambda pair: order[pair[0].id])


def next_due(
    tx: Transaction, *, in_flight: Mapping[str, int], limit: Limit, closed: Collection[str]
) -> datetime | None:
    """When the next delivery may be taken, of endpoints that have room."""
    return tx.session.exec(select(func.min(DeliveryRow.due_at)).where(*_open(in_flight, limit, closed))).one()


def _open(in_flight: Mapping[str, int], limit: Limit, closed: Collection[str]) -> list[Any]:
    """Waiting, at an endpoint with room, and no fact of the same thing is before it where order was asked for."""
    full = {*closed, *(endpoint for endpoint, count in in_flight.items() if count >= limit(endpoint))}
    earlier = aliased(DeliveryRow)
    behind = (
        select(earlier.id)
        .where(
            earlier.subscription_id == DeliveryRow.subscription_id,
            earlier.noun == DeliveryRow.noun,
            earlier.state == "waiting",
            col(earlier.noun_version) < col(DeliveryRow.noun_version),
        )
        .exists()
    )
    turn = or_(col(DeliveryRow.ordered).is_(False), not_(behind))
    return [DeliveryRow.state == "waiting", col(DeliveryRow.endpoint).not_in(sorted(full)), turn]


def at_hand(tx: Transaction, ids: Collection[str]) -> dict[str, DeliveryRow]:
    """The rows whose attempts ended, locked."""
    query = select(DeliveryRow).where(col(DeliveryRow.id).in_(sorted(ids))).order_by(col(DeliveryRow.id))
    locked = query.with_for_update().execution_options(populate_existing=True)
    return {row.id: row for row in tx.session.exec(locked)}


_SETTLE: Update = (
    update(DeliveryRow)
    .where(col(DeliveryRow.id) == bindparam("which"))
    .values(
        {name: bindparam(f"new_{name}") for name in (
            "state", "due_at", "version", "attempts", "delivered_at", "last_status", "last_error")}
    )
)  # fmt: skip


def settle(tx: Transaction, changes: Sequence[dict[str, Any]], attempts: Sequence[dict[str, Any]]) -> None:
    """Write what became of deliveries (``which`` and ``new_…``), and how each attempt went."""
    connection = tx.session.connection()
    if changes:
        connection.execute(_SETTLE, list(changes))
    if attempts:
        connection.execute(insert(AttemptRow), list(attempts))


def hasten(tx: Transaction, subscription_id: str) -> None:
    """Make all that waits for a subscription due now, so that it is looked at. What is under way is left alone."""
    query = select(DeliveryRow.id).where(
        DeliveryRow.subscription_id == subscription_id,
        DeliveryRow.state == "waiting",
        col(DeliveryRow.due_at) > tx.now,
    )
    ids = list(tx.session.exec(query.with_for_update(skip_locked=True)))
    for place in range(0, len(ids), 500):
        some = col(DeliveryRow.id).in_(ids[place : place + 500])
        tx.session.execute(update(DeliveryRow).where(some).values(due_at=tx.now))


def give_back(tx: Transaction, taken: Mapping[str, int]) -> None:
    """End the leases of what was taken (id and version) and not sent, as when a replica stops."""
    for delivery_id in sorted(taken):
        seen = (col(DeliveryRow.id) == delivery_id, col(DeliveryRow.version) == taken[delivery_id])
        tx.session.execute(update(DeliveryRow).where(*seen).values(due_at=tx.now, version=col(DeliveryRow.version) + 1))


# --- the log, as people read it ---------------------------------------------------------------------------------------


def deliveries(
    session: Session, project: str, subscription_id: str, *, state: str | None, after: str | None, limit: int
) -> list[DeliveryRow]:
    """A page of one subscription's deliveries, newest first."""
    query = select(DeliveryRow).where(DeliveryRow.project == project, DeliveryRow.subscription_id == subscription_id)
    if state is not None:
        query = query.where(DeliveryRow.state == state)
    if after:
        query = query.where(col(DeliveryRow.id) < after)
    return list(session.exec(query.order_by(col(DeliveryRow.id).desc()).limit(limit)))


def delivery(session: Session, project: str, delivery_id: str, *, locked: bool = False) -> DeliveryRow:
    """By id.

    Raises:
        NotFound: this project has no such delivery, or it is older than the log goes back.
    """
    row = session.get(DeliveryRow, delivery_id, with_for_update=locked or None)
    if row is None or row.project != project:
        raise NotFound(f"there is no delivery {delivery_id[:80]!r}", code="delivery_not_found")
    return row


def attempts(session: Session, delivery_id: str) -> list[AttemptRow]:
    """All tries at one delivery, the first one first."""
    query = select(AttemptRow).where(AttemptRow.delivery_id == delivery_id)
    return list(session.exec(query.order_by(col(AttemptRow.id)).limit(200)))


def again(tx: Transaction, *conditions: Any) -> int:
    """Send off once more what is over and fits the conditions, under its old id and by the whole schedule; how many."""
    over = (
        col(DeliveryRow.state).in_(("delivered", "dead")),
        col(DeliveryRow.purpose) == "fact",
        col(DeliveryRow.body) != b"",
    )
    changed = tx.session.execute(
        update(DeliveryRow).where(*over, *conditions).values(
            state="waiting", due_at=tx.now, delivered_at=None, last_error=None,
            version=col(DeliveryRow.version) + 1, round_start=col(DeliveryRow.attempts),
        ),
        execution_options={"synchronize_session": False},
    )  # fmt: skip
    return changed.rowcount if isinstance(changed, CursorResult) else 0


def again_since(tx: Transaction, subscription_id: str, *, since: datetime, states: Sequence[str]) -> int:
    """Send off again what happened since then; how many."""
    mine = col(DeliveryRow.subscription_id) == subscription_id
    return again(tx, mine, col(DeliveryRow.state).in_(states), col(DeliveryRow.event_at) >= since)


def waiting_for(session: Session, subscription_id: str) -> int:
    """How many deliveries wait for a subscription."""
    mine = (DeliveryRow.subscription_id == subscription_id, DeliveryRow.state == "waiting")
    return session.exec(select(func.count()).select_from(DeliveryRow).where(*mine)).one()


def prune(tx: Transaction, before: datetime) -> bool:
    """Drop some of what ended before that time, with its log; True when there may be more."""
    over = select(DeliveryRow.id).where(
        col(DeliveryRow.state).in_(("delivered", "dead")), col(DeliveryRow.due_at) < before
    )
    ids = list(tx.session.exec(over.limit(PRUNED_AT_ONCE).with_for_update(skip_locked=True)))
    for place in range(0, len(ids), 500):
        some = ids[place : place + 500]
        tx.session.execute(delete(AttemptRow).where(col(AttemptRow.delivery_id).in_(some)))
        tx.session.execute(delete(DeliveryRow).where(col(DeliveryRow.id).in_(some)))
    return len(ids) == PRUNED_AT_ONCE
