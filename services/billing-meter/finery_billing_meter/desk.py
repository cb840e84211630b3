"""What answering a request needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.access import Actor
from finery_contracts.errors import Unavailable
from finery_contracts.log import LogPage, LogRequest
from finery_kit.db import Database


class EventLog(Protocol):
    """Studio's event log."""

    async def page(self, asked: LogRequest, actor: Actor | None) -> LogPage:
        """Some of it."""
        ...


class NoLog:
    """Where there is no studio to ask."""

    async def page(self, asked: LogRequest, actor: Actor | None) -> LogPage:
        """Refuse.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("the event log cannot be read here")


def _nobody() -> None:
    return None


@dataclass(frozen=True)
class Desk:
    """Database, prices, whom to wake when something was written, and where the event log is read."""

    database: Database
    book: PriceBook
    wake: Callable[[], None] = _nobody
    log: EventLog = field(default_factory=NoLog)
