"""Billing: ledger lines, made from facts only, and what a bill is asked with and answered by."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime
from finery_contracts.prices import DayOrTime

Unit = Literal["hour", "token", "message", "package"]


class LedgerLine(Record):
    """One line of the ledger: ``posted`` moves from the account ``debit`` to ``credit``; the bill shows ``amount``.

    ``key`` makes it unique: the same fact twice is the same line. What turns out different later is reversed by a line
    of the negated amounts (``corrects`` names the line) and written anew.
    """

    id: str
    project: str
    key: str
    noun: str = Field(description="task, deployment, tokens, notifications or package")
    noun_id: str
    name: str = Field(default="", description="what the task or deployment was called then")
    description: str
    quantity: Decimal = Field(description="rounded to 1e-9 for show; the amount comes from the exact one")
    unit: Unit
    unit_price: Decimal = Field(description="of the price list at the start; hours from a package cost nothing more")
    amount: Decimal = Field(description="rounded once to 1e-9, half to even; an invoice is the sum of its lines")
    currency: str
    started_at: UtcTime
    ended_at: UtcTime | None = None
    created_at: UtcTime
    event: str = Field(description="id of the fact that this is charged for")
    cause: str | None = Field(default=None, description="id of the later fact that made this correction necessary")
    created_by: str = Field(default="", description="the user; for tokens the key the calls were made with")
    flavour: str | None = None
    package: str | None = Field(default=None, description="the hours came from this package")
    period: int | None = Field(default=None, description="and from this reset period of it, 0 is the first")
    corrects: str | None = None
    debit: str = ""
    credit: str = ""
    posted: Decimal = Decimal(0)


class LinesWritten(Record):
    """What was written into a project's ledger at one time; ``total`` is the sum of the lines."""

    project: str
    currency: str
    total: Decimal
    lines: list[LedgerLine]


class BillingCharged(Event):
    """Lines were written into the ledger."""

    NOUN = "billing"
    FACT = "charged"
    SAID_BY = "billing-meter"
    data: LinesWritten


# --- requests to the billing meter (finery.rpc.billing-meter.<verb>) --------------------------------------------------

Grouping = Literal["project", "user", "task", "day", "noun"]


class BillRequest(Request):
    """``bill.summary``: what started from ``since`` on and before ``until``."""

    by: Grouping = Field(default="task", description="task: each task and deployment; day: the UTC day it started")
    since: DayOrTime | None = None
    until: DayOrTime | None = None


class AsOfRequest(BillRequest):
    """``bill.as_of``: the same bill, of the lines that were written by then."""

    at: DayOrTime


class BillRow(Record):
    """The lines of one key in one unit."""

    key: str
    name: str | None = None
    unit: Unit
    quantity: Decimal
    from_packages: Decimal = Field(default=Decimal(0), description="the part of it that packages paid for")
    amount: Decimal


class Bill(Record):
    """``total`` is of all lines asked for, also when ``has_more`` says that the smallest rows are left out."""

    currency: str
    total: Decimal
    rows: list[BillRow]
    has_more: bool = False
    as_of: UtcTime | None = None


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
    """``cost``: of one task or deployment."""

    noun_id: str


class Cost(Record):
    """What it has cost so far: ``charged`` for ended intervals, and ``running``, an estimate of the one that runs."""

    amount: Decimal
    currency: str
    charged: Decimal = Decimal(0)
    running: Decimal = Decimal(0)


class AccountsRequest(Request):
    """``bill.accounts``: nothing to say."""


class Account(Record):
    """What came into an account less what left it."""

    name: str
    balance: Decimal


class Accounts(Record):
    """All accounts of a project. A line moves an amount from one to another, so ``sum`` is zero."""

    currency: str
    data: list[Account]
    sum: Decimal


class ExportRequest(Request):
    """``bill.export``: ledger lines as rows of a table, oldest first."""

    format: Literal["csv", "focus"] = Field(default="csv", description="focus: FOCUS 1.2 with 1.3's provider columns")
    since: DayOrTime | None = None
    until: DayOrTime | None = None
    after: str | None = None
    limit: int = Field(default=200, ge=1, le=500)


class ExportPage(Record):
    """Some rows; every cell is text that a spreadsheet takes for what it is."""

    columns: list[str]
    rows: list[list[str]]
    next: str | None = None


class VerifyRequest(Request):
    """``bill.verify``: the project's ledger, or for the operator all of them."""

    all_projects: bool = False


class Difference(Record):
    """Where ledger and event log do not say the same. ``key`` is a line's key."""

    key: str
    what: str = Field(description="missing, surplus, or the part of the line that differs")
    ledger: str | None = None
    log: str | None = None
    event: str | None = Field(default=None, description="id of the fact that the line is or should be for")


class Verification(Record):
    """The ledger against what the event log gives when it is reckoned again."""

    ok: bool
    facts: int
    lines: int
    currency: str
    total_ledger: Decimal
    total_log: Decimal
    differences: list[Difference] = Field(default_factory=list[Difference])
    has_more: bool = Field(default=False, description="there are more differences than are shown")


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
