"""Reads the ledger: sums, pages and accounts, each of one project. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import case, func
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Session, select

from finery_billing_meter.ledger.domain import Unit, from_parts, quantity_parts, text_of
from finery_billing_meter.ledger.rows import Row
from finery_billing_meter.ledger.store import LEDGER, TOKENS, view
from finery_contracts.billing import Account, BillRow, DeploymentUsage, Grouping, LedgerLine

ZERO = Decimal(0)


@dataclass(frozen=True)
class Scope:
    """Which lines: what started from ``since`` on and before ``until``, as far as it was written by ``at``.

    ``project`` None is every project: for the operator's proof alone.
    """

    project: str | None
    since: datetime | None = None
    until: datetime | None = None
    at: datetime | None = None
    noun_id: str | None = None
    user: str | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """For a query."""
        wanted: list[ColumnElement[bool]] = []
        if self.project is not None:
            wanted.append(LEDGER.c.project == self.project)
        if self.since is not None:
            wanted.append(LEDGER.c.started_at >= text_of(self.since))
        if self.until is not None:
            wanted.append(LEDGER.c.started_at < text_of(self.until))
        if self.at is not None:
            wanted.append(LEDGER.c.created_at <= text_of(self.at))
        if self.noun_id is not None:
            wanted.append(LEDGER.c.noun_id == self.noun_id)
        if self.user is not None:
            wanted.append(LEDGER.c.created_by == self.user)
        return wanted


def total(session: Session, scope: Scope) -> Decimal:
    """The sum of the lines, to the last decimal."""
    return from_parts(int(session.scalar(select(func.sum(LEDGER.c.amount_parts)).where(*scope.conditions)) or 0))


def grouped(session: Session, scope: Scope, *, by: Grouping, limit: int) -> list[BillRow]:
    """The sums for each key and unit: days in their order, everything else with the largest amount first."""
    key, amount = _key(by), func.sum(LEDGER.c.amount_parts)
    covered = func.sum(case((LEDGER.c.package != "", LEDGER.c.quantity_parts), else_=0))
    query = (
        select(  # pyright: ignore[reportCallIssue] - sqlmodel types up to four columns
            key, LEDGER.c.unit, func.max(LEDGER.c.name), func.sum(LEDGER.c.quantity_parts), covered, amount
        )
        .where(*scope.conditions)
        .group_by(key, LEDGER.c.unit)
        .order_by(*([key] if by == "day" else [amount.desc(), key]), LEDGER.c.unit)
        .limit(limit)
    )
    return [_bill_row(by, *found) for found in session.execute(query)]


def lines(session: Session, scope: Scope, *, after: str | None, limit: int) -> list[LedgerLine]:
    """A page of the ledger, oldest first."""
    return [view(row) for row in rows(session, scope, after=after, limit=limit)]


def rows(session: Session, scope: Scope, *, after: str | None, limit: int) -> list[Row]:
    """The same, as it is stored."""
    query = select(LEDGER).where(*scope.conditions, LEDGER.c.id > (after or "")).order_by(LEDGER.c.id).limit(limit)
    return [dict(row) for row in session.execute(query).mappings()]


def accounts(session: Session, project: str) -> list[Account]:
    """The balances of all accounts, by name."""
    balances: dict[str, int] = {}
    for column, sign in ((LEDGER.c.debit, 1), (LEDGER.c.credit, -1)):
        query = select(column, func.sum(LEDGER.c.posted_parts)).where(LEDGER.c.project == project).group_by(column)
        for name, parts in session.execute(query):
            balances[name] = balances.get(name, 0) + sign * int(parts)
    return [Account(name=name, balance=from_parts(parts)) for name, parts in sorted(balances.items())]


def usage(session: Session, project: str, *, deployment: str | None, limit: int) -> list[DeploymentUsage]:
    """Tokens for each deployment, the busiest first."""
    query = (
        select(TOKENS.c.deployment, _tokens("prompt"), _tokens("completion"))
        .where(*_used(project, deployment))
        .group_by(TOKENS.c.deployment)
        .order_by(func.sum(TOKENS.c.tokens).desc(), TOKENS.c.deployment)
        .limit(limit)
    )
    return [
        DeploymentUsage(deployment=name, prompt_tokens=int(prompt or 0), completion_tokens=int(completion or 0))
        for name, prompt, completion in session.execute(query)
    ]


def usage_total(session: Session, project: str, *, deployment: str | None) -> tuple[int, int]:
    """Prompt and completion tokens of all these deployments."""
    query = select(_tokens("prompt"), _tokens("completion")).where(*_used(project, deployment))
    prompt, completion = session.execute(query).one()
    return int(prompt or 0), int(completion or 0)


def counts(session: Session, project: str | None) -> list[Row]:
    """Every token counter, of all projects for the operator's proof alone."""
    query = select(TOKENS) if project is None else select(TOKENS).where(TOKENS.c.project == project)
    return [dict(row) for row in session.execute(query).mappings()]


def other_currency(session: Session, currency: str) -> str | None:
    """A currency other than this one that the ledger has lines in."""
    return session.scalar(select(LEDGER.c.currency).where(LEDGER.c.currency != currency).limit(1))


def _key(by: Grouping) -> Any:
    if by == "day":
        return func.substr(LEDGER.c.started_at, 1, 10)
    names = {"project": "project", "user": "created_by", "task": "noun_id", "noun": "noun"}
    return LEDGER.c[names[by]]


def _bill_row(by: Grouping, key: str, unit: Unit, name: str, quantity: Any, covered: Any, amount: Any) -> BillRow:
    parts = quantity_parts(unit)
    return BillRow(
        key=key, name=name or None if by == "task" else None, unit=unit, quantity=from_parts(int(quantity), parts),
        from_packages=from_parts(int(covered), parts), amount=from_parts(int(amount)),
    )  # fmt: skip


def _tokens(kind: Literal["prompt", "completion"]) -> Any:
    return func.sum(TOKENS.c.tokens).filter(TOKENS.c.kind == kind)


def _used(project: str, deployment: str | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = [TOKENS.c.project == project]
    if deployment is not None:
        wanted.append(TOKENS.c.deployment == deployment)
    return wanted
