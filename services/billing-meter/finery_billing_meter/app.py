"""The billing meter put together: which facts it hears, which requests it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

from finery_billing_meter.adapters import StudioLog, load_prices
from finery_billing_meter.alarms import Alarm, Alarms
from finery_billing_meter.budgets import handlers as budget_handlers
from finery_billing_meter.budgets import requests as budgets
from finery_billing_meter.budgets import store as budget_store
from finery_billing_meter.deadlines import handlers as deadlines
from finery_billing_meter.deadlines import store as live
from finery_billing_meter.deadlines.handlers import follow
from finery_billing_meter.desk import Desk
from finery_billing_meter.estimates import requests as estimates
from finery_billing_meter.ledger import bill
from finery_billing_meter.ledger import requests as ledger
from finery_billing_meter.ledger.handlers import charge
from finery_billing_meter.ledger.store import BILLING_METADATA
from finery_billing_meter.ledger.verify import bill_verify
from finery_billing_meter.packages import handlers as package_handlers
from finery_billing_meter.packages import requests as packages
from finery_billing_meter.packages import store as package_store
from finery_billing_meter.prices.domain import PriceBook
from finery_billing_meter.settings import BillingMeterSettings
from finery_contracts import billing, deployments, tasks
from finery_contracts.budgets import BudgetCommand, BudgetRequest, BudgetsRequest
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.envelope import Event
from finery_contracts.estimates import EstimateRequest
from finery_contracts.notifications import NotificationMetered
from finery_contracts.packages import OffersRequest, PackageRequest, PackagesRequest
from finery_contracts.prices import PricesRequest
from finery_contracts.streams import Durable
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded
from finery_kit.bus import Rpc, answer_requests
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.hot import HotRoutes, Together, listen_in_batches
from finery_kit.service import Service
from finery_kit.settings import SettingsError

NAME = "billing-meter"

CHARGED = (TaskAttemptEnded, DeploymentInstanceEnded, UsageRecorded, NotificationMetered)
FOLLOWED = (
    tasks.TaskCreated, tasks.TaskRunning, tasks.TaskAttemptEnded, tasks.TaskPaused, tasks.TaskResumed,
    tasks.TaskSucceeded, tasks.TaskFailed, tasks.TaskTerminated, tasks.TaskDeleted,
    deployments.DeploymentDeploying, deployments.DeploymentRunning, deployments.DeploymentStopping,
    deployments.DeploymentStopped, deployments.DeploymentFailed, deployments.DeploymentDeleted,
    deployments.DeploymentInstanceEnded,
)  # fmt: skip
ROUTES: dict[type[Event], Callable[..., object]] = {}
ROUTES.update(dict.fromkeys(FOLLOWED, follow))
ROUTES.update(dict.fromkeys(CHARGED, charge))


def alarms_of(book: PriceBook) -> list[Alarm]:
    """What becomes due by itself."""
    return [
        Alarm(live.next_at, deadlines.ring),
        Alarm(package_store.next_end, package_handlers.expire),
        Alarm(budget_store.next_at, partial(budget_handlers.ring, book=book)),
    ]


Answer = Callable[[Desk, Any], Awaitable[BaseModel]]
REQUESTS: dict[str, tuple[type[BaseModel], Answer]] = {
    "bill.summary": (billing.BillRequest, ledger.bill_summary),
    "bill.as_of": (billing.AsOfRequest, ledger.bill_as_of),
    "bill.lines": (billing.LinesRequest, ledger.bill_lines),
    "bill.export": (billing.ExportRequest, ledger.bill_export),
    "bill.accounts": (billing.AccountsRequest, ledger.bill_accounts),
    "bill.verify": (billing.VerifyRequest, bill_verify),
    "cost": (billing.CostRequest, estimates.cost),
    "estimate": (EstimateRequest, estimates.estimate),
    "usage": (billing.UsageRequest, ledger.usage),
    "prices": (PricesRequest, ledger.prices),
    "budget.create": (BudgetRequest, budgets.create),
    "budget.list": (BudgetsRequest, budgets.list_budgets),
    "budget.delete": (BudgetCommand, budgets.delete),
    "package.offers": (OffersRequest, packages.offers),
    "package.list": (PackagesRequest, packages.list_packages),
    "package.buy": (PackageRequest, packages.buy),
}


def build(settings: BillingMeterSettings) -> Service:
    """The service, ready to be started."""
    book = PriceBook(load_prices(settings.prices_file))
    database = Database(settings.database_for(NAME), BILLING_METADATA, DELIVERY_METADATA)
    service = Service(NAME, settings, database)
    alarms = Alarms(database, alarms_of(book), service.wake_relay)

    def wake() -> None:
        service.wake_relay()
        alarms.wake()

    desk = Desk(database, book, wake, StudioLog(service))
    listen_in_batches(service, Durable.BILLING_METER, routes(book), after=wake)
    service.loops.append(alarms.run)
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, desk)) for verb, (body, answer) in REQUESTS.items()}
    )
    service.before_start.append(partial(refuse_other_currency, desk))
    return service


def routes(book: PriceBook) -> HotRoutes:
    """ROUTES with the prices they charge by. Neighbours are taken together, whatever they are."""

    def hear(tx: Transaction, events: list[Event]) -> None:
        used = [event for event in events if isinstance(event, CHARGED)]
        if used:
            charge(tx, used, book=book)
        lives = [event for event in events if isinstance(event, FOLLOWED)]
        if lives:
            follow(tx, lives)
        budget_store.soon(tx.session, {event.project for event in events}, tx.now)

    together = Together(hear)
    return dict.fromkeys(ROUTES, together)


async def refuse_other_currency(desk: Desk) -> None:
    """Stop the start when the price list and the ledger speak of different money: their sum would mean nothing.

    Raises:
        SettingsError: the ledger has lines in another currency.
    """
    other = await desk.database.read(lambda session: bill.other_currency(session, desk.book.currency))
    if other is not None:
        raise SettingsError(
            f"finery: FINERY_PRICES_FILE: currency is {desk.book.currency}, but the ledger has lines in {other}; "
            "go back to that currency, or start with a new database for the billing meter"
        )
