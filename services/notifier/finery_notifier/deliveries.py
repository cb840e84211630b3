"""What is on its way: taking what is due, settling what came of it, the log, and sending off again.

Many rows a statement: a delivery costs a fraction of its request. A row that is taken is held with a lease in
``due_at``, so several replicas may run and any may be killed. It refuses to commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Update, bindparam, delete, func, literal_column, not_, or_, update
from sqlalchemy import select as sql_select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from finery_contracts.errors import NotFound
from finery_kit.db import Transaction
from finery_kit.prepared import Prepared, among
from finery_kit.rows import insert_rows
from finery_notifier.tables import ATTEMPTS, DELIVERIES, AttemptRow, DeliveryRow, SubscriptionRow

Limit = Callable[[str], int]
"""Endpoint → how many attempts it may have under way."""
PRUNED_AT_ONCE = 1000
TAKEN_BYTES = 8 * 2**20


def add(tx: Transaction, rows: Sequence[DeliveryRow]) -> None:
    """Store deliveries; one that the subscription has already is left as it is."""
    tx.session.flush()
    insert_rows(tx.session.connection(), DELIVERIES, [dict(row) for row in rows], known="leave")


class Due(NamedTuple):
    """A delivery that was taken, as sending it needs it."""

    id: str
    subscription_id: str
    channel: str
    endpoint: str
    purpose: str
    event_id: str
    subject: str | None
    content_type: str | None
    body: bytes
    traceparent: str | None
    version: int
    attempts: int


class Addressee(NamedTuple):
    """Whom a delivery is for: what sending it needs."""

    id: str
    url: str
    state: str
    confirm_until: datetime
    secret: str
    retiring: list[Any] | None
    link_key: str


def claim_due(
    tx: Transaction, *, room: int, in_flight: Mapping[str, int], limit: Limit, closed: Collection[str], lease_s: float
) -> list[tuple[Due, Addressee]]:
    """Take what is due for ``lease_s`` seconds, at most ``room``, never more for an endpoint than its limit.

    Safe for several replicas: rows are locked, and those that another one holds are passed over. Of large bodies it
    takes fewer, so that a turn stays small.
    """
    taken, mine, left, connection = Counter(in_flight), list[str](), TAKEN_BYTES, tx.session.connection()
    while len(mine) < room and left > 0:
        before, full = len(mine), _full(taken, limit, closed)
        found = _WAITING.rows(connection, now=tx.now, full=full, mine=mine, most=2 * room)
        for delivery_id, endpoint, size_bytes in found:
            if len(mine) < room and left > 0 and taken[endpoint] < limit(endpoint):
                taken[endpoint] += 1
                left -= size_bytes
                mine.append(delivery_id)
        if len(mine) == before or len(found) < 2 * room:
            break
    return _taken(connection, mine, tx.now + timedelta(seconds=lease_s))


def _fields(table: Any, wanted: Any) -> list[Any]:
    return [getattr(table, name) for name in wanted._fields]


_STILL = literal_column("'waiting'")  # no parameter: the index holds for this text
_EARLIER = aliased(DeliveryRow)
_BEHIND = (
    sql_select(col(_EARLIER.id))
    .where(
        col(_EARLIER.subscription_id) == col(DeliveryRow.subscription_id),
        col(_EARLIER.noun) == col(DeliveryRow.noun),
        col(_EARLIER.state) == _STILL,
        col(_EARLIER.noun_version) < col(DeliveryRow.noun_version),
    )
    .exists()
)
# Waiting, at an endpoint with room, and no fact of the same thing is before it where order was asked for.
_OPEN = (
    col(DeliveryRow.state) == _STILL,
    not_(among(col(DeliveryRow.endpoint), "full")),
    or_(col(DeliveryRow.ordered).is_(False), not_(_BEHIND)),
)
_WAITING = Prepared(
    sql_select(col(DeliveryRow.id), col(DeliveryRow.endpoint), func.length(DeliveryRow.body).label("size_bytes"))
    .where(col(DeliveryRow.due_at) <= bindparam("now"), *_OPEN, not_(among(col(DeliveryRow.id), "mine")))
    .order_by(col(DeliveryRow.due_at), col(DeliveryRow.id))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=DeliveryRow)
)
_NEXT_DUE = Prepared(sql_select(func.min(DeliveryRow.due_at).label("due_at")).where(*_OPEN))
_WHOSE = Prepared(sql_select(*_fields(SubscriptionRow, Addressee)).where(among(col(SubscriptionRow.id), "whose")))
_THESE = among(col(DeliveryRow.id), "ids")
_ONE_MORE = col(DeliveryRow.version) + 1
_TAKE = Prepared(update(DeliveryRow).where(_THESE).values(due_at=bindparam("until"), version=_ONE_MORE))
_TAKEN = Prepared(sql_select(*_fields(DeliveryRow, Due)).where(_THESE))


def _taken(connection: Connection, ids: Sequence[str], until: datetime) -> list[tuple[Due, Addressee]]:
    if not ids:
        return []
    _TAKE.execute(connection, ids=ids, until=until)
    found = {row[0]: Due._make(row) for row in _TAKEN.rows(connection, ids=ids)}
    whose = {due.subscription_id for due in found.values()}
    known = {row[0]: Addressee._make(row) for row in _WHOSE.rows(connection, whose=list(whose))}
    return [(due, known[due.subscription_id]) for due in map(found.__getitem__, ids) if due.subscription_id in known]


def next_due(
    tx: Transaction, *, in_flight: Mapping[str, int], limit: Limit, closed: Collection[str]
) -> datetime | None:
    """When the next delivery may be taken, of endpoints that have room."""
    [[due_at]] = _NEXT_DUE.rows(tx.session.connection(), full=_full(in_flight, limit, closed))
    return due_at


def _full(in_flight: Mapping[str, int], limit: Limit, closed: Collection[str]) -> list[str]:
    return sorted({*closed, *(endpoint for endpoint, count in in_flight.items() if count >= limit(endpoint))})


class AtHand(NamedTuple):
    """A delivery whose attempt ended: what settling it needs."""

    id: str
    version: int
    attempts: int
    round_start: int
    purpose: str
    project: str
    channel: str
    subscription_id: str
    last_status: int | None


_AT_HAND = Prepared(
    sql_select(*_fields(DeliveryRow, AtHand)).where(_THESE).order_by(col(DeliveryRow.id)).with_for_update()
)
_ARRIVED = Prepared(
    update(DeliveryRow).where(_THESE).values(
        state="delivered", due_at=bindparam("now"), delivered_at=bindparam("now"), last_status=bindparam("status"),
        last_error=None, version=_ONE_MORE, attempts=col(DeliveryRow.attempts) + 1,
    )
)  # fmt: skip


def at_hand(tx: Transaction, ids: Collection[str]) -> dict[str, AtHand]:
    """The rows whose attempts ended, locked."""
    tx.session.flush()
    return {row[0]: AtHand._make(row) for row in _AT_HAND.rows(tx.session.connection(), ids=list(ids))}


_CHANGE: Update = (
    update(DeliveryRow)
    .where(col(DeliveryRow.id) == bindparam("which"))
    .values(
        {name: bindparam(f"new_{name}") for name in (
            "state", "due_at", "version", "attempts", "delivered_at", "last_status", "last_error")}
    )
)  # fmt: skip


def change(tx: Transaction, changes: Sequence[dict[str, Any]]) -> None:
    """Write what became of deliveries, each by itself (``which`` and ``new_…``)."""
    if changes:
        tx.session.connection().execute(_CHANGE, list(changes))


def arrived(tx: Transaction, ids: Collection[str], status: int | None) -> None:
    """These were delivered now; one statement for all of them."""
    _ARRIVED.execute(tx.session.connection(), ids=list(ids), now=tx.now, status=status)


def keep_log(tx: Transaction, attempts: Sequence[dict[str, Any]]) -> None:
    """How each attempt went."""
    insert_rows(tx.session.connection(), ATTEMPTS, attempts)


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


def outlived(session: Session, before: datetime) -> list[str]:
    """Some of what ended before that time. No index serves this, so it is read beside the writer."""
    over = select(DeliveryRow.id).where(col(DeliveryRow.state) != "waiting", col(DeliveryRow.due_at) < before)
    return list(session.exec(over.limit(PRUNED_AT_ONCE)))


def prune(tx: Transaction, ids: Sequence[str], before: datetime) -> None:
    """Drop these with their log, unless one was sent off again meanwhile."""
    for place in range(0, len(ids), 500):
        over = (col(DeliveryRow.state) != "waiting", col(DeliveryRow.due_at) < before)
        mine = select(DeliveryRow.id).where(col(DeliveryRow.id).in_(ids[place : place + 500]), *over)
        some = list(tx.session.exec(mine.with_for_update(skip_locked=True)))
        tx.session.execute(delete(AttemptRow).where(col(AttemptRow.delivery_id).in_(some)))
        tx.session.execute(delete(DeliveryRow).where(col(DeliveryRow.id).in_(some)))
