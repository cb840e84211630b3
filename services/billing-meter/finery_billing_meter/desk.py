"""What answering a request needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finery_billing_meter.prices.domain import PriceBook
from finery_kit.db import Database


def _nobody() -> None:
    return None


@dataclass(frozen=True)
class Desk:
    """Database, prices, and whom to wake when something was written."""

    database: Database
    book: PriceBook
    wake: Callable[[], None] = _nobody
