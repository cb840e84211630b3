"""Counts that change in the transaction in which a task does, so that a decision never counts tasks.

They are written last and in one order, whatever the order of the changes: two transactions cannot wait for each other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from finery_kit.db import Transaction
from finery_studio.pools.store import CountRow


class Standing(StrEnum):
    """How an unfinished task counts."""

    HELD = "held"
    WAITING = "waiting"
    RUNNING = "running"


Spot = tuple[str, str, str, str]
"""Pool, flavour, kind, project."""


@dataclass
class Tally:
    """What a transaction changes in the counts; written once, when its work is done."""

    session: Session
    changes: Counter[tuple[Spot, Standing]] = field(default_factory=Counter[tuple[Spot, Standing]])

    def __call__(self) -> None:
        """Write the changes."""
        for spot in sorted({spot for (spot, _), by in self.changes.items() if by}):
            self._add(spot, {standing: self.changes[spot, standing] for standing in Standing})
        self.changes.clear()

    def of(self, project: str, *standings: Standing) -> int:
        """By how much these counts of a project have changed, not yet written."""
        return sum(by for (spot, standing), by in self.changes.items() if spot[3] == project and standing in standings)

    def _add(self, spot: Spot, by: dict[Standing, int]) -> None:
        table: Table = vars(CountRow)["__table__"]
        dialect = postgresql if self.session.get_bind().dialect.name == "postgresql" else sqlite
        values = dict(zip(("pool", "flavour", "kind", "project"), spot, strict=True))
        insert = dialect.insert(table).values(**values, **{str(name): count for name, count in by.items()})
        added = {str(name): table.c[str(name)] + count for name, count in by.items() if count}
        self.session.execute(insert.on_conflict_do_update(index_elements=list(values), set_=added))


def tally(tx: Transaction) -> Tally:
    """The transaction's tally. It goes before the outbox, whose lock must be taken last."""
    for action in tx.before_commit:
        if isinstance(action, Tally):
            return action
    made = Tally(tx.session)
    tx.before_commit.insert(0, made)
    return made


def count(tx: Transaction, spot: Spot, *, was: str | None, now: Standing | None) -> str | None:
    """A task stood as ``was`` and stands as ``now``; None is not counted. Answers what to remember."""
    if was != now:
        changes = tally(tx).changes
        if was is not None:
            changes[spot, Standing(was)] -= 1
        if now is not None:
            changes[spot, now] += 1
    return None if now is None else str(now)
