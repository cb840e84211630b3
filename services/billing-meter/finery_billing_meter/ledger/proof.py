"""Reckons the ledger again from facts alone, and finds where it says something else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from finery_billing_meter.ledger import domain
from finery_billing_meter.ledger.domain import Interval, Line, TokenCount, from_parts, text_of
from finery_billing_meter.ledger.rows import Key, Row, last_rows
from finery_billing_meter.ledger.usage import Used, note
from finery_billing_meter.packages import domain as packages
from finery_billing_meter.packages.domain import Package
from finery_billing_meter.prices.domain import PriceBook, PriceMissing
from finery_contracts.billing import Difference
from finery_contracts.envelope import Event
from finery_contracts.packages import PackageBought, PackageExpired

AMOUNTS = ("quantity_parts", "amount_parts", "posted_parts")
UNPROVEN = {"description", "event"}
"""Of a line: its words may change with the version, and any fact of the log that tells of it may be named."""
OWN = {"id", "revision", "created_at", "cause", "corrects", *AMOUNTS}
"""In what a reversal differs from the line that it reverses."""


@dataclass
class Evidence:
    """What the event log says: heard fact by fact, in any order."""

    book: PriceBook
    used: Used = field(default_factory=Used)
    bought: dict[str, Package] = field(default_factory=dict[str, Package])
    expired: set[str] = field(default_factory=set[str])
    unpriced: list[Difference] = field(default_factory=list[Difference])
    facts: int = 0
    ids: set[str] = field(default_factory=set[str])

    def hear(self, event: Event) -> None:
        """Note one fact; twice is once."""
        self.facts += 1
        self.ids.add(event.id)
        if isinstance(event, PackageBought):
            self.bought.setdefault(event.data.id, packages.package_of(event.data, event=event.id))
        elif isinstance(event, PackageExpired):
            self.expired.add(event.data.id)
        else:
            try:
                note(self.used, event, self.book)
            except (PriceMissing, domain.Impossible) as fault:
                self.unpriced.append(Difference(key="", what=fault.error_code, log=fault.message, event=event.id))

    def lines(self) -> Iterator[Line]:
        """The valid lines that the ledger must have, and no others."""
        yield from self.used.lines.values()
        groups: dict[tuple[str, str], list[Interval]] = {}
        for interval in self.used.intervals.values():
            groups.setdefault((interval.project, interval.flavour), []).append(interval)
        recognised: dict[str, int] = {}
        for (project, flavour), intervals in groups.items():
            mine = [p for p in self.bought.values() if (p.project, p.flavour) == (project, flavour)]
            for line in packages.lines_of(sorted(intervals, key=packages.in_order), mine, {}):
                recognised[line.package] = recognised.get(line.package, 0) + line.posted_parts
                yield line
        for package in self.bought.values():
            yield packages.purchase(package)
            if package.id in self.expired:
                rest = packages.expiry(replace(package, expired=True), recognised.get(package.id, 0))
                if rest is not None:
                    yield rest


def differences(evidence: Evidence, expected: Mapping[Key, Line], rows: Sequence[Row]) -> Iterator[Difference]:
    """Line by line: what is missing, what is too much, what says something else, what was changed or removed."""
    last = last_rows(rows)
    valid = {key: row for key, row in last.items() if row["revision"] % 2 == 0}
    for key, line in expected.items():
        row = valid.get(key)
        if row is None:
            yield Difference(key=_name(key), what="missing", log=_amount(line.amount_parts), event=line.event)
        else:
            yield from _unlike(key, row, line)
    for key, row in valid.items():
        if key not in expected:
            yield Difference(key=_name(key), what="surplus", ledger=_amount(row["amount_parts"]), event=row["event"])
        elif row["event"] not in evidence.ids:
            yield Difference(key=_name(key), what="event", ledger=row["event"], log=expected[key].event)
    yield from _broken(rows)


def miscounted(counts: Mapping[str, TokenCount], rows: Iterable[Row]) -> Iterator[Difference]:
    """Tokens that were used, priced or not: the same of their counters."""
    stored = {row["key"]: row for row in rows}
    for source, count in counts.items():
        row = stored.pop(source, None)
        if row is None:
            yield Difference(key=source, what="missing", log=str(count.tokens), event=count.event)
        elif any(
            row[name] != getattr(count, name) for name in ("project", "deployment", "kind", "actor_key", "tokens")
        ):
            yield Difference(
                key=source, what="tokens", ledger=str(row["tokens"]), log=str(count.tokens), event=count.event
            )  # fmt: skip
    for key, row in stored.items():
        yield Difference(key=key, what="surplus", ledger=str(row["tokens"]))


def _unlike(key: Key, row: Row, line: Line) -> Iterator[Difference]:
    wanted = {**line._asdict(), "unit_price": str(line.unit_price)}
    wanted |= {"started_at": text_of(line.started_at), "ended_at": text_of(line.ended_at)}
    for name in sorted(wanted.keys() - UNPROVEN):
        if row[name] != wanted[name] and not (name == "unit_price" and line.unit_price == Decimal(row[name])):
            yield Difference(
                key=_name(key), what=name.removesuffix("_parts"), ledger=str(row[name]), log=str(wanted[name]),
                event=line.event,
            )  # fmt: skip


def _broken(rows: Iterable[Row]) -> Iterator[Difference]:
    """The history of each key: revisions without a gap, every reversal the negative of the line before it."""
    histories: dict[Key, list[Row]] = {}
    for row in rows:
        histories.setdefault((row["source"], row["package"], row["period"]), []).append(row)
        billed = row["posted_parts"] if row["debit"] == domain.RECEIVABLE else 0
        if row["amount_parts"] != billed:
            yield _fault(row, "the amount is not what is moved from the receivable account")
    for history in histories.values():
        history.sort(key=lambda row: row["revision"])
        for place, row in enumerate(history):
            if row["revision"] != place:
                yield _fault(row, f"revision {place} is not there")
                break
            if place % 2 and not _reverses(row, history[place - 1]):
                yield _fault(row, "it does not reverse the line before it")


def _reverses(row: Row, before: Row) -> bool:
    negated = all(row[name] == -before[name] for name in AMOUNTS)
    return negated and row["corrects"] == before["id"] and all(row[n] == before[n] for n in before.keys() - OWN)


def _fault(row: Row, what: str) -> Difference:
    name = _name((row["source"], row["package"], row["period"]))
    return Difference(key=f"{name}#{row['revision']}", what=what, ledger=row["id"], event=row["event"])


def _name(key: Key) -> str:
    source, package, period = key
    return f"{source}/{package}:{period}" if package else source


def _amount(parts: int) -> str:
    return f"{from_parts(parts):f}"
