"""What was charged, and what things cost."""

from __future__ import annotations

from collections.abc import Iterator

from finery.transport import Page, Transport, every
from finery_contracts.billing import Bill, Grouping, LedgerLine
from finery_contracts.prices import PriceList


class Billing:
    """``client.bill``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def summary(self, *, by: Grouping = "task", since: str | None = None, until: str | None = None) -> Bill:
        """Total and rows. ``since`` and ``until``: a day (2026-01-31) or an ISO time, UTC."""
        asked = {"by": by, "since": since, "until": until}
        said = {key: value for key, value in asked.items() if value is not None}
        return self._transport.view(Bill, "GET", "/api/v1/bill", params=said)

    def lines(
        self, *, noun_id: str | None = None, limit: int = 20, after: str | None = None
    ) -> Page[LedgerLine]:  # fmt: skip
        """Ledger lines, oldest first; ``noun_id``: of one task or deployment."""
        return self._transport.page(LedgerLine, "/api/v1/bill/lines", noun_id=noun_id, limit=limit, after=after)

    def all_lines(self, *, noun_id: str | None = None) -> Iterator[LedgerLine]:
        """Every ledger line, page by page."""
        return every(lambda after: self.lines(noun_id=noun_id, limit=100, after=after))

    def prices(self) -> PriceList:
        """The price list with its versions."""
        return self._transport.view(PriceList, "GET", "/api/v1/prices")
