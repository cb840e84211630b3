"""Where pools, quotas and the counts of tasks lie: everything that a decision needs, so that it is one transaction."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sql
from sqlalchemy import JSON, BigInteger, Column, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlmodel import Field, Session, col, func, or_, select

from finery_contracts.errors import NotFound
from finery_contracts.model import Record
from finery_contracts.pools import Flavour
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_studio.pools.admission import Queue, Situation, Tenant
from finery_studio.store import StudioTable

LOCK_ADMISSION, LOCK_PROJECT = 4261, 4262
"""Postgres: one claim decides at a time, or two would both take the last slot; one submit of a project likewise."""


CLOCK = ""
"""Stands for no project: a pool's own clock among what was served."""


class PoolRow(StudioTable, table=True):
    """A pool; ``project`` None is a public one."""

    __tablename__ = "pool"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str | None = Field(default=None, index=True)
    name: str = Field(index=True)
    description: str = ""
    flavours: dict[str, int | None] = Field(sa_column=Column(JSON, nullable=False))
    driver: str | None = None
    created_by: str
    created_at: datetime = Field(sa_type=UtcText)


class PolicyRow(StudioTable, table=True):
    """One row: the flavours and the default quota, as the newest studio was started with."""

    __tablename__ = "admission_policy"  # pyright: ignore[reportAssignmentType]
    id: int = Field(primary_key=True)
    policy: str


class QuotaRow(StudioTable, table=True):
    """What an operator set for a project; None is the default."""

    __tablename__ = "quota"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    running_slots: int | None = None
    waiting_tasks: int | None = None
    share: int | None = None


class HoldRow(StudioTable, table=True):
    """Why nothing of a project is begun at the moment; each cause is lifted by itself."""

    __tablename__ = "admission_hold"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    cause: str = Field(primary_key=True)
    reason: str


class CountRow(StudioTable, table=True):
    """How many tasks of a project, kind and flavour are held up, wait and run in a pool."""

    __tablename__ = "task_count"  # pyright: ignore[reportAssignmentType]
    pool: str = Field(primary_key=True)
    flavour: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    project: str = Field(primary_key=True, index=True)
    held: int = 0
    waiting: int = 0
    running: int = 0


class ServedRow(StudioTable, table=True):
    """What a project was served in a pool, for its share; of nobody (``CLOCK``): what was served least."""

    __tablename__ = "served"  # pyright: ignore[reportAssignmentType]
    pool: str = Field(primary_key=True)
    project: str = Field(primary_key=True)
    served: int = Field(default=0, sa_type=BigInteger)


# What every claim reads and writes, built once: to build a statement takes longer than to run it.
_T: dict[str, Any] = {kind.__name__: vars(kind)["__table__"].c for kind in (CountRow, QuotaRow, HoldRow, ServedRow)}
_COUNT, _QUOTA, _HOLD, _SERVING = _T["CountRow"], _T["QuotaRow"], _T["HoldRow"], _T["ServedRow"]
_COUNTS = sql.select(_COUNT.pool, _COUNT.flavour, _COUNT.kind, _COUNT.project, _COUNT.waiting, _COUNT.running).where(
    (_COUNT.running > 0) | ((_COUNT.waiting > 0) & (_COUNT.pool == sql.bindparam("pool")))
)
_QUOTAS = sql.select(_QUOTA.project, _QUOTA.running_slots, _QUOTA.share)
_HOLDS = sql.select(_HOLD.project, sql.func.min(_HOLD.reason).label("reason")).group_by(_HOLD.project)
_SERVED = sql.select(_SERVING.project, _SERVING.served).where(_SERVING.pool == sql.bindparam("pool"))


def _upsert(insert: Any) -> Any:
    made = insert(vars(ServedRow)["__table__"])
    return made.on_conflict_do_update(index_elements=["pool", "project"], set_={"served": made.excluded.served})


_SERVE = {"sqlite": _upsert(sqlite.insert), "postgresql": _upsert(postgresql.insert)}


class Quota(Record):
    """What a project may, with the defaults filled in."""

    running_slots: int = 64
    waiting_tasks: int = 10_000
    share: int = 1


class Policy(Record):
    """What this installation was started with."""

    flavours: dict[str, Flavour]
    default: Quota = Quota()


def policy(session: Session) -> Policy:
    """The flavours and the default quota."""
    row = session.get(PolicyRow, 1)
    if row is None:
        return Policy(flavours={})
    return _parsed(row.policy)


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> Policy:
    return Policy.model_validate_json(text)


def slots_of(session: Session, flavour: str) -> int:
    """Slots that one task of this flavour takes."""
    known = policy(session).flavours.get(flavour)
    return known.slots if known else 1


def visible_pools(session: Session, project: str) -> list[PoolRow]:
    """The public ones and the project's own, oldest first."""
    query = select(PoolRow).where(or_(col(PoolRow.project).is_(None), PoolRow.project == project))
    return list(session.exec(query.order_by(col(PoolRow.created_at), col(PoolRow.id))))


def pool_ids(session: Session) -> list[str]:
    """All pools of the installation."""
    return list(session.exec(select(PoolRow.id).order_by(col(PoolRow.id))))


def find(session: Session, project: str, ref: str) -> PoolRow | None:
    """A pool that this project sees, by id or name; its own before a public one."""
    rows = [row for row in visible_pools(session, project) if ref in (row.id, row.name)]
    return min(rows, key=lambda row: (row.id != ref, row.project is None), default=None)


def load(session: Session, project: str, ref: str) -> PoolRow:
    """The same.

    Raises:
        NotFound: this project sees none of that id or name; the message names those it sees.
    """
    row = find(session, project, ref)
    if row is None:
        names = ", ".join(pool.name for pool in visible_pools(session, project))
        raise NotFound(f"there is no pool {ref!r}; there are {names}", code="pool_not_found", param="pool")
    return row


def keep(session: Session, row: PoolRow, *, exclusively: bool) -> PoolRow | None:
    """The pool as it is now, kept until the transaction ends: submits keep it from being deleted under them."""
    query = select(PoolRow).where(PoolRow.id == row.id).with_for_update(read=not exclusively)
    return session.exec(query, execution_options={"populate_existing": True}).first()


def quota(session: Session, project: str, default: Quota) -> Quota:
    """What a project may."""
    row = session.get(QuotaRow, project)
    return default if row is None else settled(row, default)


def settled(row: QuotaRow, default: Quota) -> Quota:
    """The quota that a row means."""
    said = row.model_dump(exclude={"project"}, exclude_none=True)
    return default.model_copy(update=said)


def hold(tx: Transaction, project: str, *, cause: str, reason: str) -> None:
    """Begin nothing of this project until ``release``; its waiting tasks say the reason.

    What is being claimed at this moment is waited for: whoever looks afterwards for what runs sees it.
    """
    one_at_a_time(tx.session, LOCK_ADMISSION)
    tx.session.merge(HoldRow(project=project, cause=cause, reason=reason))
    tx.session.flush()


def release(tx: Transaction, project: str, *, cause: str) -> None:
    """This cause is over."""
    row = tx.session.get(HoldRow, (project, cause))
    if row is not None:
        tx.session.delete(row)
        tx.session.flush()


def situation(session: Session, pool: PoolRow) -> Situation:
    """What ``admission`` decides from: a few hundred counts, whatever the number of tasks."""
    told, connection = policy(session), session.connection()
    served = {row.project: row.served for row in connection.execute(_SERVED, {"pool": pool.id})}
    return Situation(
        pool=pool.id,
        name=pool.name,
        queues=[Queue(*row) for row in connection.execute(_COUNTS, {"pool": pool.id})],
        tenants=_tenants(connection, served, told.default),
        default=Tenant(told.default.share, told.default.running_slots),
        costs={name: flavour.slots for name, flavour in told.flavours.items()},
        room=pool.flavours,
        clock=served.get(CLOCK, 0),
    )


def serve(session: Session, pool: str, served: Mapping[str, int]) -> None:
    """Remember what was served."""
    rows = [{"pool": pool, "project": project, "served": value} for project, value in sorted(served.items())]
    session.connection().execute(_SERVE[session.get_bind().dialect.name], rows)


def _tenants(connection: Connection, served: Mapping[str, int], default: Quota) -> Mapping[str, Tenant]:
    quotas = {row.project: row for row in connection.execute(_QUOTAS)}
    holds = {row.project: row.reason for row in connection.execute(_HOLDS)}
    tenants = dict[str, Tenant]()
    for project in {*quotas, *holds, *served}:
        row = quotas.get(project)
        share = row.share if row and row.share is not None else default.share
        slots = row.running_slots if row and row.running_slots is not None else default.running_slots
        tenants[project] = Tenant(share, slots, holds.get(project), served.get(project, 0))
    return tenants


def usage(session: Session) -> list[CountRow]:
    """All counts that are not nothing."""
    busy = (CountRow.held > 0) | (CountRow.waiting > 0) | (CountRow.running > 0)  # type: ignore[operator]
    return list(session.exec(select(CountRow).where(busy)))


def waiting_of(session: Session, project: str) -> int:
    """Tasks of a project that are held up or wait."""
    total = func.sum(CountRow.held + CountRow.waiting)  # type: ignore[operator]
    return session.exec(select(total).where(CountRow.project == project)).one() or 0


def in_pool(session: Session, pool: str) -> dict[str, int]:
    """Flavours that unfinished tasks of this pool have, and how many of them."""
    total = func.sum(CountRow.held + CountRow.waiting + CountRow.running)  # type: ignore[operator]
    query = select(CountRow.flavour, total).where(CountRow.pool == pool).group_by(CountRow.flavour)
    return {flavour: number for flavour, number in session.exec(query) if number}


def one_at_a_time(session: Session, key: int, *, of: str = "") -> None:
    """Postgres: wait until nobody else holds this lock, then hold it to the end of the transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("select pg_advisory_xact_lock(:key, hashtext(:of))"), {"key": key, "of": of})
