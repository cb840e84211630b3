"""Billing: ledger lines, made from facts only, and what a bill is asked with and answered by."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime
from finery_contracts.prices import DayOrTime


class LedgerLine(Record):
    """One charge. ``key`` makes it unique: the same fact twice is the same line."""

    id: str
    project: str
    key: str
    noun: str = Field(description="task, deployment or tokens")
    noun_id: str
    name: str = Field(default="", description="what the task or deployment was called then")
    description: str
    quantity: Decimal = Field(description="rounded to 1e-9 for show; the amount comes from the exact one")
    unit: Literal["hour", "token"]
    unit_price: Decimal
    amount: Decimal = Field(description="rounded once to 1e-9, half to even; an invoice is the sum of its lines")
    currency: str
    started_at: UtcTime
    created_at: UtcTime
    event: str
    created_by: str = Field(default="", description="the user; for tokens the key the calls were made with")


class BillingCharged(Event):
    """A line was written into the ledger."""

    NOUN = "billing"
    FACT = "charged"
    SAID_BY = "billing-meter"
    data: LedgerLine


# --- requests to the billing meter (finery.rpc.billing-meter.<verb>) --------------------------------------------------

Grouping = Literal["project", "user", "task", "day", "noun"]


class BillRequest(Request):
    """``bill.summary``: what started from ``since`` on and before ``until``."""

    by: Grouping = Field(default="task", description="task: each task and deployment; day: the UTC day it started")
    since: DayOrTime | None = None
    until: DayOrTime | None = None


class BillRow(Record):
    """The lines of one key in one unit."""

    key: str
    name: str | None = None
    unit: Literal["hour", "token"]
    quantity: Decimal
    amount: Decimal


class Bill(Record):
    """``total`` is of all lines asked for, also when ``has_more`` says that the smallest rows are left out."""

    currency: str
    total: Decimal
    rows: list[BillRow]
    has_more: bool = False


class LinesRequest(Request):
    """``bill.lines``, oldest first: what comes after the line id ``after``."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    noun_id: str | None = None


class LinePage(Record):
    """Ledger lines; ``next`` is the ``after`` of the next page."""

    data: list[LedgerLine]
    has_more: bool = False
    next: str | None = None


class CostRequest(Request):
    """``cost``: of one task or deployment, over all its ended intervals."""

    noun_id: str


class Cost(Record):
    """What was charged so far."""

    amount: Decimal
    currency: str


class PricesRequest(Request):
    """``prices``: nothing to say."""


class UsageRequest(Request):
    """``usage``: of one deployment, or of all."""

    deployment: str | None = None


class DeploymentUsage(Record):
    """Tokens of one deployment, priced or not."""

    deployment: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class UsageTotals(Record):
    """Tokens of the project; ``has_more`` says that the deployments with the fewest are not among the rows."""

    prompt_tokens: int
    completion_tokens: int
    rows: list[DeploymentUsage]
    has_more: bool = False
