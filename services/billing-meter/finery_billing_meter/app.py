"""The billing meter put together: which facts it hears, which requests it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

from finery_billing_meter import handlers, requests, store
from finery_billing_meter.adapters import load_prices
from finery_billing_meter.requests import Desk
from finery_billing_meter.settings import BillingMeterSettings
from finery_billing_meter.store import BILLING_METADATA
from finery_contracts import billing
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.envelope import Event
from finery_contracts.prices import PriceList, PricesRequest
from finery_contracts.streams import Durable
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded
from finery_kit.bus import FactRoutes, Rpc, answer_requests, listen_to_facts
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.service import Service
from finery_kit.settings import SettingsError

NAME = "billing-meter"

ROUTES: dict[type[Event], Callable[..., None]] = {
    TaskAttemptEnded: handlers.on_attempt_ended,
    DeploymentInstanceEnded: handlers.on_instance_ended,
    UsageRecorded: handlers.on_usage_recorded,
}

Answer = Callable[[Desk, Any], Awaitable[BaseModel]]
REQUESTS: dict[str, tuple[type[BaseModel], Answer]] = {
    "bill.summary": (billing.BillRequest, requests.bill_summary),
    "bill.lines": (billing.LinesRequest, requests.bill_lines),
    "cost": (billing.CostRequest, requests.cost),
    "usage": (billing.UsageRequest, requests.usage),
    "prices": (PricesRequest, requests.prices),
}


def build(settings: BillingMeterSettings) -> Service:
    """The service, ready to be started."""
    prices = load_prices(settings.prices_file)
    database = Database(settings.database_for(NAME), BILLING_METADATA, DELIVERY_METADATA)
    service = Service(NAME, settings, database)
    desk = Desk(database, prices)
    listen_to_facts(
        service.broker, NAME, Durable.BILLING_METER, routes(prices), database, after=service.wake_relay
    )  # fmt: skip
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, desk)) for verb, (body, answer) in REQUESTS.items()}
    )
    service.before_start.append(partial(refuse_other_currency, desk))
    return service


def routes(prices: PriceList) -> FactRoutes:
    """ROUTES with the price list they charge by."""
    return {kind: partial(handler, prices=prices) for kind, handler in ROUTES.items()}


async def refuse_other_currency(desk: Desk) -> None:
    """Stop the start when the price list and the ledger speak of different money: their sum would mean nothing.

    Raises:
        SettingsError: the ledger has lines in another currency.
    """
    other = await desk.database.read(lambda session: store.other_currency(session, desk.prices.currency))
    if other is not None:
        raise SettingsError(
            f"finery: FINERY_PRICES_FILE: currency is {desk.prices.currency}, but the ledger has lines in {other}; "
            "go back to that currency, or start with a new database for the billing meter"
        )
