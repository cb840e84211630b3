"""Where pools, quotas and the counts of tasks lie: everything that a decision needs, so that it is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import JSON, BigInteger, Column, text
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


class Quota(Record):
    """What a project may, with the defaults filled in."""

    running_slots: int = 64
    waiting_tasks: int = 10_000
    share: int = 1


class Policy(Record):
    """What this installation was started with."""

    flavours: dict[str, Flavour]
    default: Quota = Quota()


_POLICY = TypeAdapter(Policy)


def policy(session: Session) -> Policy:
    """The flavours and the default quota."""
    row = session.get(PolicyRow, 1)
    if row is None:
        return Policy(flavours={})
    return _POLICY.validate_json(row.policy)


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
    """Begin nothing of this project until ``release``; its waiting tasks say the reason."""
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
    told = policy(session)
    served = dict(session.exec(select(ServedRow.project, ServedRow.served).where(ServedRow.pool == pool.id)).all())
    counts = select(
        CountRow.pool, CountRow.flavour, CountRow.kind, CountRow.project, CountRow.waiting, CountRow.running
    ).where(or_(CountRow.running > 0, (CountRow.waiting > 0) & (CountRow.pool == pool.id)))  # type: ignore[operator]
    return Situation(
        pool=pool.id,
        name=pool.name,
        queues=[Queue(*row) for row in session.exec(counts)],  # pyright: ignore[reportArgumentType,reportCallIssue]
        tenants=_tenants(session, served, told.default),
        default=Tenant(told.default.share, told.default.running_slots),
        costs={name: flavour.slots for name, flavour in told.flavours.items()},
        room=pool.flavours,
        clock=served.get(CLOCK, 0),
    )


def _tenants(session: Session, served: Mapping[str, int], default: Quota) -> Mapping[str, Tenant]:
    found = {row.project: settled(row, default) for row in session.exec(select(QuotaRow))}
    holds = dict(session.exec(select(HoldRow.project, func.min(HoldRow.reason)).group_by(HoldRow.project)).all())
    return {
        project: Tenant(
            share=found.get(project, default).share,
            running_slots=found.get(project, default).running_slots,
            held=holds.get(project),
            served=served.get(project, 0),
        )
        for project in {*found, *holds, *served}
    }


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
