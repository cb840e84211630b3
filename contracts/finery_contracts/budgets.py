"""Budgets: what a project means to spend, when its people are warned, and whether work stops."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime

Percent = Annotated[int, Field(ge=1, le=1000)]
Limit = Annotated[Decimal, Field(gt=0, le=1_000_000_000, max_digits=18, decimal_places=9)]
BudgetPeriod = Literal["month", "total"]


class BudgetView(Record):
    """A budget as it is now; ``used`` is the ledger's sum plus what runs at this moment has cost so far."""

    id: str
    project: str
    name: str
    period: BudgetPeriod = Field(description="month: the UTC month; total: from the first line on")
    period_start: UtcTime | None = Field(default=None, description="of the present month")
    limit: Decimal
    currency: str
    alert_at: list[int] = Field(default_factory=list[int])
    stop: bool
    user: str | None = Field(default=None, description="counts only what this user started")
    used: Decimal = Decimal(0)
    alerted: int | None = Field(default=None, description="the highest percentage that was told in this period")
    exhausted: bool = False
    created_at: UtcTime
    created_by: str
    version: int


class BudgetFact(Event):
    """A fact about a budget."""

    NOUN = "budget"
    SAID_BY = "billing-meter"
    data: BudgetView


class BudgetAlerted(BudgetFact):
    """A threshold was reached (``alerted``)."""

    FACT = "alerted"


class BudgetExhausted(BudgetFact):
    """All of it is used; with ``stop``, running work of the project stops and new work waits."""

    FACT = "exhausted"


class BudgetRestored(BudgetFact):
    """There is money again: a new month began, or the budget was deleted."""

    FACT = "restored"


# --- requests to the billing meter (finery.rpc.billing-meter.<verb>) --------------------------------------------------


class BudgetRequest(Request):
    """``budget.create``. At most 50 in a project; a name is there once."""

    name: str = Field(pattern=r"^[A-Za-z\u4e00-\u9fff][A-Za-z0-9\u4e00-\u9fff_-]{0,63}$")
    limit: Limit
    period: BudgetPeriod = "month"
    alert_at: list[Percent] = Field(default=[50, 80, 100], max_length=10, description="percentages of the limit")
    stop: bool = Field(default=False, description="stop running work when it is used up, and hold what waits")
    user: str | None = Field(default=None, max_length=64, description="count only what this user started")

    @model_validator(mode="after")
    def _only_a_project_stops(self) -> BudgetRequest:
        if self.stop and self.user is not None:
            raise ValueError("a budget for one user warns; only one for the whole project can stop work")
        return self


class BudgetsRequest(Request):
    """``budget.list``: nothing to say; they are few."""


class BudgetPage(Record):
    """All budgets of a project."""

    data: list[BudgetView]
    has_more: bool = False
    next: str | None = None


class BudgetCommand(Request):
    """``budget.delete``."""

    budget: str = Field(max_length=64, description="budget id or name")
