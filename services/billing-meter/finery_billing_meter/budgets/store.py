"""The budgets' table. ``next_at`` is when the budget must be looked at again; what was charged brings that forward."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import BigInteger, UniqueConstraint, func, update
from sqlmodel import Field, Session, col, or_, select

from finery_billing_meter.budgets.domain import Budget
from finery_billing_meter.ledger.domain import text_of
from finery_billing_meter.ledger.store import Table
from finery_contracts.budgets import BudgetPeriod


class BudgetRow(Table, table=True):
    """One budget."""

    __tablename__ = "budget"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("project", "name"),)
    id: str = Field(primary_key=True)
    project: str
    name: str
    period: str
    limit_parts: int = Field(sa_type=BigInteger)
    currency: str
    alert_at: str
    stop: bool
    user_id: str | None = None
    created_at: str
    created_by: str
    version: int
    period_start: str | None = None
    alerted: int
    exhausted: bool
    next_at: str | None = Field(default=None, index=True)

    @property
    def budget(self) -> Budget:
        """As it is."""
        period: BudgetPeriod = "month" if self.period == "month" else "total"
        return Budget(
            self.id, self.project, self.name, period, self.limit_parts, self.currency,
            tuple(int(percent) for percent in self.alert_at.split()), self.stop, self.user_id,
            datetime.fromisoformat(self.created_at), self.created_by, self.version,
            datetime.fromisoformat(self.period_start) if self.period_start else None, self.alerted, self.exhausted,
        )  # fmt: skip

    def take(self, budget: Budget, next_at: datetime | None) -> None:
        """Become this."""
        self.version, self.alerted, self.exhausted = budget.version, budget.alerted, budget.exhausted
        self.period_start = text_of(budget.period_start) if budget.period_start else None
        self.next_at = text_of(next_at) if next_at else None


def row_of(budget: Budget, next_at: datetime) -> BudgetRow:
    """A new one."""
    return BudgetRow(
        id=budget.id, project=budget.project, name=budget.name, period=budget.period, limit_parts=budget.limit_parts,
        currency=budget.currency, alert_at=" ".join(map(str, budget.alert_at)), stop=budget.stop, user_id=budget.user,
        created_at=text_of(budget.created_at), created_by=budget.created_by, version=budget.version,
        period_start=text_of(budget.period_start) if budget.period_start else None, alerted=budget.alerted,
        exhausted=budget.exhausted, next_at=text_of(next_at),
    )  # fmt: skip


def of_project(session: Session, project: str) -> list[BudgetRow]:
    """All budgets of a project, by name."""
    return list(session.exec(select(BudgetRow).where(BudgetRow.project == project).order_by(col(BudgetRow.name))))


def named(session: Session, project: str, ref: str) -> BudgetRow | None:
    """By id or name, kept from other writers."""
    query = select(BudgetRow).where(BudgetRow.project == project, or_(BudgetRow.id == ref, BudgetRow.name == ref))
    return session.exec(query.with_for_update()).first()


def soon(session: Session, projects: Collection[str], now: datetime) -> None:
    """Something was charged there, or begins or ends to run: look at their budgets."""
    mine = col(BudgetRow.project).in_(projects)
    session.connection().execute(update(BudgetRow).where(mine).values(next_at=text_of(now)))


def due(session: Session, now: datetime, *, limit: int) -> list[BudgetRow]:
    """Those to look at; what another one has at hand is left to it."""
    query = select(BudgetRow).where(col(BudgetRow.next_at) <= text_of(now)).order_by(col(BudgetRow.next_at))
    return list(session.exec(query.limit(limit).with_for_update(skip_locked=True)))


def next_at(session: Session) -> datetime | None:
    """When the next one must be looked at."""
    found = session.exec(select(func.min(BudgetRow.next_at))).one()
    return datetime.fromisoformat(found) if found else None
