"""The billing meter, driven as its handlers drive its domains, over a ledger in memory; judged by the oracle.

After every commit the ledger's sums must be the oracle's for the facts that were applied, to the last decimal.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from finery_billing_meter.ledger import store as ledger
from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.envelope import Event
from finery_contracts.packages import PackageBought
from finery_contracts.prices import HourPrice, PackageOffer, PriceList, TokenPrice
from tests.simulation.domains import Domains
from tests.simulation.machinery import Bus, Crashed, Process, Tx
from tests.simulation.oracle import Bought, Price, amounts
from tests.simulation.rules import Charge
from tests.simulation.world import SECOND, START, Violation, World

FLAVOUR = "gpu"
CHANGE = START + timedelta(seconds=61.5)
PRICES = [(START - timedelta(days=400), "4.25"), (CHANGE, "7.3"), (START + timedelta(seconds=140), "0.045")]
FOLLOWS = frozenset(
    {"created", "running", "paused", "resumed", "succeeded", "failed", "terminated", "deleted", "attempt_ended"}
)  # fmt: skip
ENDS = frozenset({"attempt_ended", "instance_ended"})


def price_list() -> PriceList:
    """Three versions; the second and third begin while a run lasts."""
    hours = [HourPrice(valid_from=since, per_hour=Decimal(price)) for since, price in PRICES]
    tokens = [TokenPrice(valid_from=PRICES[0][0], prompt=Decimal(0), completion=Decimal(0))]
    return PriceList(currency="EUR", flavours={FLAVOUR: hours}, tokens=tokens)


class Meter:
    """Ledger, packages and deadlines."""

    def __init__(self, world: World, bus: Bus, domains: Domains, charges: dict[str, Charge | None]) -> None:
        self.world, self.bus, self.domains = world, bus, domains
        self.process = Process(world, bus, "meter")
        self.process.on_restart = self._ring_soon
        self.book: Any = domains.prices.PriceBook(price_list())
        self.charges = charges
        self.applied: list[str] = []
        self.bought: list[Bought] = []
        self._wakes_us = 0
        bus.listen(self.process, lambda event: type(event).NOUN in ("task", "deployment"), self.on_fact)

    @property
    def rows(self) -> list[Any]:
        """The ledger, as it was written."""
        return list(self.process.disk.setdefault("line", {}).values())

    def on_fact(self, event: Event) -> None:
        """A fact from the bus."""
        name = type(event).FACT
        if type(event).NOUN == "task" and name not in FOLLOWS:
            return

        def work(tx: Tx) -> None:
            if not tx.first_sight(event):
                return
            known = tx.get("live", event.noun_id)
            live = self.domains.deadlines.after(known, event)
            self._must(known is None or live.version >= known.version, f"{event.noun_id}: an older fact won")
            tx.put("live", event.noun_id, live)
            if name in ENDS:
                self._charge(tx, event)

        self.process.write(work, committed=lambda _: self._heard(event))
        self._ring_soon()

    # --- packages -----------------------------------------------------------------------------------------------

    def buy(self, project: str, offer: PackageOffer, starts_at: datetime, package_id: str) -> None:
        """Somebody buys a package; one that began before the run is as if it had been bought then."""
        packages = self.domains.packages
        parts = self.domains.ledger.parts_of

        def work(tx: Tx) -> Any:
            package = packages.Package(
                package_id, project, offer.name, offer.flavour, parts(offer.hours), offer.reset, starts_at,
                packages.end_of(offer, starts_at), parts(offer.price), "EUR", offer.low_percent,
                min(tx.now, starts_at), "user", "",
            )  # fmt: skip
            view = package.view_at(tx.now, used_parts=0, version=1)
            told = tx.emit(PackageBought, package_id, version=1, data=view, project=project)
            tx.put("package", package_id, package)
            self._write(tx, ledger.corrections([], [packages.purchase(package)], now=tx.now, cause=""))
            late = [row for row in self._hours(tx, project) if row["ended_at"] >= self._text(starts_at)]
            if late:
                since = datetime.fromisoformat(min(row["started_at"] for row in late))
                self._reckon(tx, project, since, [], told.id)
            return package

        package = self.process.write(work, committed=lambda _: self._bought(project, offer, starts_at, package_id))
        windows = tuple((window.start, window.end) for window in package.windows)
        self._must(windows == self.bought[-1].periods, f"the periods of {package_id} are not {offer.reset}")

    def _bought(self, project: str, offer: PackageOffer, starts_at: datetime, package_id: str) -> None:
        ends_at = starts_at + timedelta(days=offer.valid_days or 0)
        step = {"day": timedelta(days=1), "week": timedelta(days=7)}.get(offer.reset, ends_at - starts_at)
        begins = [starts_at + step * number for number in range(400) if starts_at + step * number < ends_at]
        periods = tuple((begin, min(begin + step, ends_at)) for begin in begins)
        bought_at = min(self.world.now, starts_at)
        self.bought.append(Bought(package_id, project, int(offer.hours * 10**9), bought_at, periods))
        self._check_sums()

    # --- the ledger ---------------------------------------------------------------------------------------------

    def _charge(self, tx: Tx, event: Any) -> None:
        domain, packages = self.domains.ledger, self.domains.packages
        task = type(event).NOUN == "task"
        interval = (domain.interval_of_attempt if task else domain.interval_of_instance)(event, self.book)
        if interval is None or any(row["source"] == interval.source for row in self.rows):
            return
        if any(packages.covers(package, interval) for package in self._packages(tx, event.project)):
            self._reckon(tx, event.project, interval.started_at, [interval], event.id)
        else:
            self._write(tx, ledger.corrections([], [domain.paid_by_use(interval)], now=tx.now, cause=""))

    def _reckon(self, tx: Tx, project: str, since: datetime, intervals: list[Any], cause: str) -> None:
        """Everything that started since then, once more."""
        packages = self._packages(tx, project)
        rows = self._hours(tx, project)
        used: dict[tuple[str, int], int] = {}
        for row in rows:
            if row["package"] and row["started_at"] < self._text(since):
                key = (row["package"], row["period"])
                used[key] = used.get(key, 0) + row["quantity_parts"]
        present = [row for row in rows if row["started_at"] >= self._text(since)]
        known = {row["source"]: self._interval(row) for row in present}
        known |= {interval.source: interval for interval in intervals}
        ordered = sorted(known.values(), key=self.domains.packages.in_order)
        lines = list(self.domains.packages.lines_of(ordered, packages, used))
        self._write(tx, ledger.corrections(present, lines, now=tx.now, cause=cause))

    def _write(self, tx: Tx, rows: list[Any]) -> None:
        place = len(self.process.disk.setdefault("line", {})) + getattr(tx, "lines", 0)
        for number, row in enumerate(rows, place):
            tx.put("line", number, {**row, "id": f"line_{number:06}"})
        tx.lines = getattr(tx, "lines", 0) + len(rows)  # type: ignore[attr-defined]

    def _hours(self, tx: Tx, project: str) -> list[Any]:
        return [row for row in self.rows if row["project"] == project and row["unit"] == "hour"]

    def _packages(self, tx: Tx, project: str) -> list[Any]:
        found = dict(self.process.disk.get("package", {}))
        found |= {key: row for (table, key), row in tx._rows.items() if table == "package"}
        return [package for _, package in sorted(found.items()) if package.project == project]

    def _interval(self, row: Any) -> Any:
        return self.domains.ledger.Interval(*ledger.interval_of(row))

    def _text(self, moment: datetime) -> str:
        return self.domains.ledger.text_of(moment)

    # --- what must hold -----------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        if type(event).FACT in ENDS:
            if event.id not in self.applied:
                self.applied.append(event.id)
            self._check_sums()

    def _check_sums(self) -> None:
        charges = [charge for charge in map(self.charges.get, self.applied) if charge is not None]
        wanted = amounts(charges, self.bought, [Price(since, Fraction(price)) for since, price in PRICES])
        billed: dict[str, int] = {}
        for row in self.rows:
            if row["unit"] == "hour":
                billed[row["source"]] = billed.get(row["source"], 0) + row["amount_parts"]
        self._must(billed == wanted, f"the ledger says {billed}, the oracle {wanted}")

    def settle_accounts(self) -> None:
        """At the end: what packages still owe is their price less what was used of it."""
        for package in self._packages(Tx(self.process), "packed"):
            mine = [row for row in self.rows if row["package"] == package.id]
            recognised = sum(row["posted_parts"] for row in mine)
            left = self.domains.packages.expiry(package, recognised)
            total = recognised + (left.posted_parts if left is not None else 0)
            self._must(total == package.price_parts, f"{package.id}: {total} of {package.price_parts} is accounted for")
            self._must(0 <= recognised <= package.price_parts, f"{package.id}: {recognised} was recognised")

    # --- deadlines ----------------------------------------------------------------------------------------------

    def _ring_soon(self) -> None:
        """Wake when the next deadline is; waking too often does no harm."""
        dues = [live.next_at for live in self.process.disk.get("live", {}).values() if live is not None]
        moments = [moment for moment in dues if moment is not None]
        if moments and self.process.up:
            wait_s = max(0.0, (min(moments) - self.world.now).total_seconds())
            self.world.after(wait_s, self._ring, self.process.epoch)

    def _ring(self, epoch: int) -> None:
        if epoch != self.process.epoch or not self.process.up:
            return

        def work(tx: Tx) -> bool:
            told = False
            for noun_id, live in sorted(self.process.disk.get("live", {}).items()):
                after, say, due_at = self.domains.deadlines.look(live, tx.now)
                if say is None:
                    continue
                told = True
                self._check_deadline(live, say, due_at)
                kind = AutoStopDue if say == "due" else AutoStopWarned
                self._must(after.alarms == live.alarms + 1, f"{noun_id}: the alarm's version does not grow")
                data = after.view(due_at, tx.now)
                tx.emit(kind, noun_id, version=after.alarms, data=data, project=live.project)
                tx.put("live", noun_id, after)
            return told

        try:
            if self.process.write(work):
                self._ring_soon()
        except Crashed:
            return

    def _check_deadline(self, live: Any, say: str, due_at: datetime) -> None:
        if say == "due" and self.world.calm_for_s() > 10 and live.running_s(self.world.now) > 2:
            self._must(live.told == due_at, f"{live.noun_id} is stopped without a warning")
        if say == "warned":
            early_s = (due_at - self.world.now).total_seconds()
            most_s = min(0.1 * live.limit_s, 900.0)
            self._must(early_s <= most_s + 0.001, f"{live.noun_id} is warned {early_s} s before, not {most_s}")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


__all__ = ["FLAVOUR", "SECOND", "Meter"]
