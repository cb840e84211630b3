"""The packages' table. What was bought never changes; only what was told of it does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, func
from sqlmodel import Field, Session, col, select

from finery_billing_meter.ledger.domain import text_of
from finery_billing_meter.ledger.rows import Row
from finery_billing_meter.ledger.store import LEDGER, Table
from finery_billing_meter.packages.domain import Package, Use
from finery_contracts.prices import Reset


class PackageRow(Table, table=True):
    """One package. ``low_told`` and ``used_up_told``: the last period that this was told of, or -1."""

    __tablename__ = "package"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    offer: str
    flavour: str
    quota_parts: int = Field(sa_type=BigInteger)
    reset: str
    starts_at: str
    ends_at: str = Field(index=True)
    price_parts: int = Field(sa_type=BigInteger)
    currency: str
    low_percent: int
    bought_at: str
    bought_by: str
    event: str = ""
    expired: bool = Field(default=False, index=True)
    low_told: int = -1
    used_up_told: int = -1
    version: int = 1

    @property
    def package(self) -> Package:
        """What was bought."""
        reset: Reset = self.reset  # pyright: ignore[reportAssignmentType]
        return Package(
            self.id, self.project, self.offer, self.flavour, self.quota_parts, reset,
            datetime.fromisoformat(self.starts_at), datetime.fromisoformat(self.ends_at), self.price_parts,
            self.currency, self.low_percent, datetime.fromisoformat(self.bought_at), self.bought_by, self.event,
            self.expired,
        )  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """What the lines of some intervals took: hours of each period, and how much of each package's price they used."""

    hours: Use
    recognised: dict[str, int]


def row_of(package: Package) -> PackageRow:
    """A package that was just bought."""
    return PackageRow(
        id=package.id, project=package.project, offer=package.offer, flavour=package.flavour,
        quota_parts=package.quota_parts, reset=package.reset, starts_at=text_of(package.starts_at),
        ends_at=text_of(package.ends_at), price_parts=package.price_parts, currency=package.currency,
        low_percent=package.low_percent, bought_at=text_of(package.bought_at), bought_by=package.bought_by,
        event=package.event,
    )  # fmt: skip


def of_projects(session: Session, projects: Collection[str]) -> list[PackageRow]:
    """All packages of these projects, the oldest first."""
    query = select(PackageRow).where(col(PackageRow.project).in_(projects)).order_by(col(PackageRow.id))
    return list(session.exec(query))


def page(session: Session, project: str, *, after: str | None, limit: int) -> list[PackageRow]:
    """A page of them, the oldest first."""
    query = select(PackageRow).where(PackageRow.project == project, col(PackageRow.id) > (after or ""))
    return list(session.exec(query.order_by(col(PackageRow.id)).limit(limit)))


def due(session: Session, now: datetime, *, limit: int) -> list[PackageRow]:
    """Those that are over and not marked so."""
    query = select(PackageRow).where(col(PackageRow.expired).is_(False), PackageRow.ends_at <= text_of(now))
    return list(session.exec(query.order_by(col(PackageRow.ends_at)).limit(limit)))


def next_end(session: Session) -> datetime | None:
    """When the next one is over."""
    found = session.exec(select(func.min(PackageRow.ends_at)).where(col(PackageRow.expired).is_(False))).one()
    return datetime.fromisoformat(found) if found else None


def rows_from(session: Session, project: str, flavour: str, since: datetime) -> list[Row]:
    """All ledger rows of running time of this flavour that started then or later."""
    query = select(LEDGER).where(
        LEDGER.c.project == project, LEDGER.c.started_at >= text_of(since), LEDGER.c.flavour == flavour,
        LEDGER.c.unit == "hour",
    )  # fmt: skip
    return [dict(row) for row in session.execute(query).mappings()]


def rows_of_source(session: Session, source: str) -> list[Row]:
    """All ledger rows of one source."""
    return [dict(row) for row in session.execute(select(LEDGER).where(LEDGER.c.source == source)).mappings()]


def first_start(session: Session, project: str, flavour: str, ended_from: datetime) -> datetime | None:
    """The earliest start of what ended then or later."""
    query = select(func.min(LEDGER.c.started_at)).where(
        LEDGER.c.project == project, LEDGER.c.flavour == flavour, LEDGER.c.unit == "hour",
        LEDGER.c.ended_at >= text_of(ended_from),
    )  # fmt: skip
    found = session.scalar(query)
    return datetime.fromisoformat(found) if found else None


def taken(session: Session, packages: Sequence[Package], *, before: datetime | None = None) -> Taken:
    """What the intervals that started before then took from these packages; None: all of them."""
    hours: Use = {}
    recognised: dict[str, int] = {}
    if packages:
        query = select(  # pyright: ignore[reportCallIssue] - sqlmodel types up to four columns
            LEDGER.c.package, LEDGER.c.period, _sum("quantity_parts"), _sum("posted_parts")
        ).where(LEDGER.c.package.in_([package.id for package in packages]), LEDGER.c.package != "")
        if before is not None:
            query = query.where(LEDGER.c.started_at < text_of(before))
        for package, period, quantity, posted in session.execute(query.group_by(LEDGER.c.package, LEDGER.c.period)):
            hours[package, period] = int(quantity)
            recognised[package] = recognised.get(package, 0) + int(posted)
    return Taken(hours, recognised)


def _sum(column: str) -> Any:
    return func.sum(LEDGER.c[column])
