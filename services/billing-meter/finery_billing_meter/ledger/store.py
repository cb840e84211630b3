"""The ledger's table: it only grows, and every query that serves a person names the project.

Money lies here as whole billionths in 64 bits, so that SQLite and Postgres sum it exactly (up to nine billion of the
currency for each sum). It refuses to change or remove a line: what turned out different is reversed and written anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Index, MetaData, UniqueConstraint, text
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, select

from finery_billing_meter.ledger.domain import (
    Interval,
    Line,
    TokenCount,
    Unit,
    from_parts,
    quantity_parts,
    text_of,
)
from finery_billing_meter.ledger.rows import Row, last_rows
from finery_contracts.billing import LedgerLine
from finery_contracts.ids import new_id
from finery_kit.rows import insert_rows

BILLING_METADATA = MetaData()
COVERED = text("package <> ''")


class Table(SQLModel, registry=registry(metadata=BILLING_METADATA)):
    """What every table of the billing meter is."""

    metadata = BILLING_METADATA


class LineRow(Table, table=True):
    """One line. Of one source, package and period an even ``revision`` is valid until an odd one reverses it."""

    __tablename__ = "ledger_line"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        UniqueConstraint("source", "package", "period", "revision"),
        Index("ledger_line_place", "project", "started_at"),
        Index("ledger_line_noun", "noun_id"),
        Index("ledger_line_package", "package", sqlite_where=COVERED, postgresql_where=COVERED),
    )
    id: str = Field(primary_key=True)
    source: str
    package: str
    period: int
    revision: int
    project: str
    noun: str
    noun_id: str
    name: str
    description: str
    flavour: str
    pool: str
    instances: int
    running: str
    quantity_parts: int = Field(sa_type=BigInteger)
    unit: str
    unit_price: str
    amount_parts: int = Field(sa_type=BigInteger)
    posted_parts: int = Field(sa_type=BigInteger)
    debit: str
    credit: str
    currency: str
    started_at: str
    ended_at: str
    created_at: str
    created_by: str
    event: str
    cause: str
    corrects: str


class TokenRow(Table, table=True):
    """Tokens that were used, priced or not; keyed as their ledger line is."""

    __tablename__ = "token_count"  # pyright: ignore[reportAssignmentType]
    key: str = Field(primary_key=True)
    project: str = Field(index=True)
    deployment: str
    kind: str
    actor_key: str
    tokens: int = Field(sa_type=BigInteger)
    first_at: str


LEDGER: Any = LineRow.__table__  # pyright: ignore[reportAttributeAccessIssue]
TOKENS: Any = TokenRow.__table__  # pyright: ignore[reportAttributeAccessIssue]
_AMOUNTS = ("quantity_parts", "amount_parts", "posted_parts")
CHUNK = 500
LOCK_PROJECT = 4250


def keep_others_out(session: Session, projects: Collection[str]) -> None:
    """Until this transaction ends nobody else writes lines of these projects; on SQLite nobody could anyhow."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text(
                "select pg_advisory_xact_lock(:space, place) from (select distinct hashtext(project) as place "
                "from unnest(cast(:projects as text[])) as project order by 1) as places"
            ),
            {"space": LOCK_PROJECT, "projects": list(projects)},
        )


def known_sources(session: Session, sources: Sequence[str]) -> set[str]:
    """Those that have lines already."""
    found: set[str] = set()
    for chunk in _chunks(sources):
        found.update(session.scalars(select(LEDGER.c.source).where(LEDGER.c.source.in_(chunk))))
    return found


def known_counts(session: Session, sources: Sequence[str]) -> set[str]:
    """Those that were counted already."""
    found: set[str] = set()
    for chunk in _chunks(sources):
        found.update(session.scalars(select(TOKENS.c.key).where(TOKENS.c.key.in_(chunk))))
    return found


def add_lines(session: Session, lines: Iterable[Line], now: datetime) -> list[Row]:
    """Write first lines of their keys."""
    written = text_of(now)
    rows = [_row(line, written) for line in lines]
    return _insert(session, rows)


def add_rows(session: Session, rows: list[Row]) -> list[Row]:
    """Write corrections."""
    return _insert(session, rows)


def add_counts(session: Session, counts: Sequence[TokenCount]) -> None:
    """Write token counts."""
    if counts:
        insert_rows(
            session.connection(), TOKENS,
            [
                {
                    "key": c.source, "project": c.project, "deployment": c.deployment, "kind": c.kind,
                    "actor_key": c.actor_key, "tokens": c.tokens, "first_at": text_of(c.first_at),
                }
                for c in counts
            ],
        )  # fmt: skip


def corrections(rows: Iterable[Row], wanted: Iterable[Line], *, now: datetime, cause: str) -> list[Row]:
    """What must be written so that of these keys' rows the valid ones say what is wanted, and nothing else."""
    written, last = text_of(now), last_rows(rows)
    lines = {line.key: line for line in wanted}
    more: list[Row] = []
    for key in [*last, *(key for key in lines if key not in last)]:
        row, line = last.get(key), lines.get(key)
        fresh = _row(line, written) if line is not None else None
        valid = row is not None and row["revision"] % 2 == 0
        if row is not None and valid and fresh is not None and _says_the_same(row, fresh):
            continue
        revision = -1 if row is None else row["revision"]
        if row is not None and valid:
            revision += 1
            more.append(_reversal(row, revision, written, cause))
        if fresh is not None:
            more.append({**fresh, "revision": revision + 1, "cause": cause if revision >= 0 else ""})
    return more


def view(row: Row) -> LedgerLine:
    """As the world sees it."""
    unit: Unit = row["unit"]
    key = row["source"]
    if row["package"]:
        key = f"{key}/{row['package']}:{row['period']}"
    told = {
        "id": row["id"], "project": row["project"], "key": f"{key}#{row['revision']}" if row["revision"] else key,
        "noun": row["noun"], "noun_id": row["noun_id"], "name": row["name"], "description": row["description"],
        "quantity": from_parts(row["quantity_parts"], quantity_parts(unit)), "unit": unit,
        "unit_price": Decimal(row["unit_price"]), "amount": from_parts(row["amount_parts"]),
        "currency": row["currency"], "started_at": datetime.fromisoformat(row["started_at"]),
        "ended_at": datetime.fromisoformat(row["ended_at"]),
        "created_at": datetime.fromisoformat(row["created_at"]), "event": row["event"], "cause": row["cause"] or None,
        "created_by": row["created_by"], "flavour": row["flavour"] or None, "package": row["package"] or None,
        "period": row["period"] if row["package"] else None, "corrects": row["corrects"] or None,
        "posted": from_parts(row["posted_parts"]), "debit": row["debit"], "credit": row["credit"],
    }  # fmt: skip
    return LedgerLine.model_validate(told)


def interval_of(row: Row) -> Interval:
    """The interval that a line is for."""
    return Interval(
        row["source"], row["project"], row["noun"], row["noun_id"], row["name"], row["description"], row["flavour"],
        row["pool"], row["instances"], row["running"], datetime.fromisoformat(row["started_at"]),
        Decimal(row["unit_price"]), row["currency"], row["created_by"], row["event"],
    )  # fmt: skip


def _row(line: Line, written: str) -> Row:
    row: Row = dict(zip(line._fields, line, strict=True))
    row["unit_price"] = str(line.unit_price)
    row["started_at"], row["ended_at"] = text_of(line.started_at), text_of(line.ended_at)
    row["revision"], row["created_at"], row["cause"], row["corrects"] = 0, written, "", ""
    return row


def _reversal(row: Row, revision: int, written: str, cause: str) -> Row:
    negated = {name: -row[name] for name in _AMOUNTS}
    return {**row, **negated, "revision": revision, "created_at": written, "cause": cause, "corrects": row["id"]}


def _says_the_same(row: Row, fresh: Row) -> bool:
    return all(row[name] == fresh[name] for name in (*_AMOUNTS, "unit_price", "debit", "credit"))


def _insert(session: Session, rows: list[Row]) -> list[Row]:
    if rows:
        written = new_id("line")  # ids of one process grow, so pages show lines in the order of writing
        for place, row in enumerate(rows):
            row["id"] = f"{written}{place:05d}"
        insert_rows(session.connection(), LEDGER, rows)
    return rows


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[place : place + CHUNK] for place in range(0, len(items), CHUNK))
