"""What was charged, what things cost and will cost, and what a project means to spend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from finery.transport import Page, Transport, every
from finery_contracts.billing import Accounts, Bill, Cost, Grouping, LedgerLine, Verification
from finery_contracts.budgets import BudgetPeriod, BudgetView
from finery_contracts.estimates import Estimate
from finery_contracts.packages import Offers, PackageView
from finery_contracts.prices import PriceList

VERIFY_TIMEOUT_S = 600.0


class Billing:
    """``client.bill``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def summary(self, *, by: Grouping = "task", since: str | None = None, until: str | None = None) -> Bill:
        """Total and rows. ``since`` and ``until``: a UTC day (2026-01-31) or a time with its zone."""
        return self._transport.view(Bill, "GET", "/api/v1/bill", params=_said(by=by, since=since, until=until))

    def as_of(self, at: str, *, by: Grouping = "task", since: str | None = None, until: str | None = None) -> Bill:
        """What the bill was at that time, by what was written then."""
        params = _said(at=at, by=by, since=since, until=until)
        return self._transport.view(Bill, "GET", "/api/v1/bill/as-of", params=params)

    def lines(
        self, *, noun_id: str | None = None, limit: int = 20, after: str | None = None
    ) -> Page[LedgerLine]:  # fmt: skip
        """Ledger lines, oldest first; ``noun_id``: of one task or deployment."""
        return self._transport.page(LedgerLine, "/api/v1/bill/lines", noun_id=noun_id, limit=limit, after=after)

    def all_lines(self, *, noun_id: str | None = None) -> Iterator[LedgerLine]:
        """Every ledger line, page by page."""
        return every(lambda after: self.lines(noun_id=noun_id, limit=100, after=after))

    def verify(self, *, all_projects: bool = False) -> Verification:
        """Reckon the ledger again from the event log; ``ok`` and every difference."""
        params = {"all_projects": all_projects}
        return self._transport.view(
            Verification, "GET", "/api/v1/bill/verify", params=params, timeout=VERIFY_TIMEOUT_S
        )  # fmt: skip

    def export(
        self, *, form: Literal["csv", "focus"] = "csv", since: str | None = None, until: str | None = None
    ) -> Iterator[str]:
        """The lines as CSV or FOCUS 1.2, piece by piece."""
        params = _said(format=form, since=since, until=until)
        with self._transport.stream("GET", "/api/v1/bill/export", params=params) as answer:
            yield from answer.iter_text()

    def accounts(self) -> Accounts:
        """The balances of the double-entry ledger."""
        return self._transport.view(Accounts, "GET", "/api/v1/bill/accounts")

    def cost(self, noun_id: str) -> Cost:
        """What a task or deployment has cost so far."""
        return self._transport.view(Cost, "GET", f"/api/v1/cost/{noun_id}")

    def prices(self) -> PriceList:
        """The price list with its versions."""
        return self._transport.view(PriceList, "GET", "/api/v1/prices")

    def estimate(self, **asked: Any) -> Estimate:
        """Duration and price before submit: ``seconds``, or ``model``, ``method`` and ``iterations``; ``flavour``, …"""
        return self._transport.view(Estimate, "POST", "/api/v1/estimates", json=_said(**asked))


class Budgets:
    """``client.budgets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[BudgetView]:
        """All budgets of the project, with what is used of them."""
        return self._transport.page(BudgetView, "/api/v1/budgets")

    def create(
        self, name: str, limit: str, *, period: BudgetPeriod = "month", alert_at: tuple[int, ...] = (50, 80, 100),
        stop: bool = False, user: str | None = None,
    ) -> BudgetView:  # fmt: skip
        """Warn at these percentages; with ``stop``, running work stops when all of it is used."""
        body = _said(name=name, limit=limit, period=period, alert_at=[*alert_at], stop=stop, user=user)
        return self._transport.view(BudgetView, "POST", "/api/v1/budgets", json=body)

    def delete(self, budget: str) -> BudgetView:
        """By id or name; what it stopped may go on."""
        return self._transport.view(BudgetView, "DELETE", f"/api/v1/budgets/{budget}")


class Packages:
    """``client.packages``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def offers(self) -> Offers:
        """What can be bought."""
        return self._transport.view(Offers, "GET", "/api/v1/packages/offers")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[PackageView]:
        """What was bought, with what is left of it."""
        return self._transport.page(PackageView, "/api/v1/packages", limit=limit, after=after)

    def buy(self, offer: str, *, starts_at: str | None = None) -> PackageView:
        """Buy hours in advance; the price is due at once and is not given back."""
        body = _said(offer=offer, starts_at=starts_at)
        return self._transport.view(PackageView, "POST", "/api/v1/packages", json=body)


def _said(**asked: Any) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if value is not None}
