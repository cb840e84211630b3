"""The ledger and the token counters. Both only grow; every query that serves a person names the project.

Money lies here as whole billionths in 64 bits, so that SQLite and Postgres sum it exactly (up to nine billion of the
currency for each sum). It refuses to change or remove a line.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import BigInteger, MetaData, func
from sqlalchemy.orm import registry
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Field, Session, SQLModel, col, select

from finery_billing_meter.domain import BILLIONTHS, Charge, TokenCount, Unit, from_parts, parts_of, quantity_parts
from finery_contracts.billing import BillRow, DeploymentUsage, Grouping, LedgerLine
from finery_contracts.ids import new_id

BILLING_METADATA = MetaData()


class _Table(SQLModel, registry=registry(metadata=BILLING_METADATA)):
    metadata = BILLING_METADATA


class LineRow(_Table, table=True):
    """One charge. ``key`` is unique whatever the inbox remembers."""

    __tablename__ = "ledger"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    key: str = Field(unique=True)
    noun: str
    noun_id: str = Field(index=True)
    name: str
    description: str
    quantity_parts: int = Field(sa_type=BigInteger)
    unit: str
    unit_price: str
    amount_parts: int = Field(sa_type=BigInteger)
    currency: str
    started_at: str = Field(index=True)
    created_at: str
    event: str
    created_by: str

    def view(self) -> LedgerLine:
        """As the world sees it."""
        unit: Unit = "hour" if self.unit == "hour" else "token"
        return LedgerLine(
            id=self.id, project=self.project, key=self.key, noun=self.noun, noun_id=self.noun_id, name=self.name,
            description=self.description, quantity=from_parts(self.quantity_parts, quantity_parts(unit)), unit=unit,
            unit_price=Decimal(self.unit_price), amount=from_parts(self.amount_parts, BILLIONTHS),
            currency=self.currency, started_at=datetime.fromisoformat(self.started_at),
            created_at=datetime.fromisoformat(self.created_at), event=self.event, created_by=self.created_by,
        )  # fmt: skip


class TokenRow(_Table, table=True):
    """Tokens that were used, priced or not; keyed as their ledger line is."""

    __tablename__ = "token_count"  # pyright: ignore[reportAssignmentType]
    key: str = Field(primary_key=True)
    project: str = Field(index=True)
    deployment: str = Field(index=True)
    kind: str
    actor_key: str
    tokens: int = Field(sa_type=BigInteger)
    first_at: str


def add_line(session: Session, charge: Charge, *, project: str, event: str, now: datetime) -> LedgerLine | None:
    """Write a charge; None when its key is in the ledger already."""
    if session.exec(select(LineRow.id).where(LineRow.key == charge.key)).first() is not None:
        return None
    row = LineRow(
        id=new_id("line"), project=project, key=charge.key, noun=charge.noun, noun_id=charge.noun_id,
        name=charge.name, description=charge.description,
        quantity_parts=parts_of(charge.quantity, quantity_parts(charge.unit)), unit=charge.unit,
        unit_price=str(charge.unit_price), amount_parts=parts_of(charge.amount, BILLIONTHS), currency=charge.currency,
        started_at=_text(charge.started_at), created_at=_text(now), event=event, created_by=charge.created_by,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.view()


def add_count(session: Session, count: TokenCount, *, project: str) -> None:
    """Write a count, unless its key is there already."""
    if session.get(TokenRow, count.key) is None:
        session.add(
            TokenRow(
                key=count.key, project=project, deployment=count.deployment, kind=count.kind,
                actor_key=count.actor_key, tokens=count.tokens, first_at=_text(count.first_at),
            )
        )  # fmt: skip


def lines(session: Session, project: str, *, after: str | None, limit: int, noun_id: str | None) -> list[LedgerLine]:
    """A page of the ledger, oldest first."""
    query = select(LineRow).where(LineRow.project == project, col(LineRow.id) > (after or ""))
    if noun_id is not None:
        query = query.where(LineRow.noun_id == noun_id)
    return [row.view() for row in session.exec(query.order_by(col(LineRow.id)).limit(limit))]


def total(
    session: Session, project: str, *, since: datetime | None = None, until: datetime | None = None,
    noun_id: str | None = None,
) -> Decimal:  # fmt: skip
    """The sum of the lines, to the last decimal."""
    conditions = _started(project, since, until)
    if noun_id is not None:
        conditions.append(col(LineRow.noun_id) == noun_id)
    return from_parts(
        int(session.exec(select(func.sum(LineRow.amount_parts)).where(*conditions)).one() or 0), BILLIONTHS
    )


def grouped(
    session: Session, project: str, *, by: Grouping, since: datetime | None, until: datetime | None, limit: int
) -> list[BillRow]:
    """The sums for each key and unit: days in their order, everything else with the largest amount first."""
    key, amount = _key(by), func.sum(LineRow.amount_parts)
    query = (
        select(  # pyright: ignore[reportCallIssue] - sqlmodel types up to four columns
            key, col(LineRow.unit), func.max(LineRow.name), func.sum(LineRow.quantity_parts), amount
        )
        .where(*_started(project, since, until))
        .group_by(key, col(LineRow.unit))
        .order_by(*([key] if by == "day" else [amount.desc(), key]), col(LineRow.unit))
        .limit(limit)
    )
    return [_row(by, *found) for found in session.exec(query)]


def usage(session: Session, project: str, *, deployment: str | None, limit: int) -> list[DeploymentUsage]:
    """Tokens for each deployment, the busiest first."""
    query = (
        select(col(TokenRow.deployment), _tokens("prompt"), _tokens("completion"))
        .where(*_used(project, deployment))
        .group_by(col(TokenRow.deployment))
        .order_by(func.sum(TokenRow.tokens).desc(), col(TokenRow.deployment))
        .limit(limit)
    )
    return [
        DeploymentUsage(deployment=name, prompt_tokens=int(prompt or 0), completion_tokens=int(completion or 0))
        for name, prompt, completion in session.exec(query)
    ]


def usage_total(session: Session, project: str, *, deployment: str | None) -> tuple[int, int]:
    """Prompt and completion tokens of all these deployments."""
    query = select(_tokens("prompt"), _tokens("completion")).where(*_used(project, deployment))
    prompt, completion = session.exec(query).one()
    return int(prompt or 0), int(completion or 0)


def other_currency(session: Session, currency: str) -> str | None:
    """A currency other than this one that the ledger has lines in."""
    return session.exec(select(LineRow.currency).where(LineRow.currency != currency).limit(1)).first()


def _text(moment: datetime) -> str:
    # One length and one zone, so that text order is time order.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _started(project: str, since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [col(LineRow.project) == project]
    if since is not None:
        conditions.append(col(LineRow.started_at) >= _text(since))
    if until is not None:
        conditions.append(col(LineRow.started_at) < _text(until))
    return conditions


def _key(by: Grouping) -> Any:
    if by == "day":
        return func.substr(LineRow.started_at, 1, 10)
    names = {"project": LineRow.project, "user": LineRow.created_by, "task": LineRow.noun_id, "noun": LineRow.noun}
    return col(names[by])


def _row(by: Grouping, key: str, unit: Unit, name: str, quantity: Any, amount: Any) -> BillRow:
    return BillRow(
        key=key, name=name or None if by == "task" else None, unit=unit,
        quantity=from_parts(int(quantity), quantity_parts(unit)), amount=from_parts(int(amount), BILLIONTHS),
    )  # fmt: skip


def _tokens(kind: Literal["prompt", "completion"]) -> Any:
    return func.sum(TokenRow.tokens).filter(col(TokenRow.kind) == kind)


def _used(project: str, deployment: str | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [col(TokenRow.project) == project]
    if deployment is not None:
        conditions.append(col(TokenRow.deployment) == deployment)
    return conditions
