"""Reads the price list from its file and the event log from studio. A list that is wrong stops the start, and the place
is named.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from finery_billing_meter.prices.domain import offers_that_cannot_be, places_out_of_order
from finery_contracts.access import Actor
from finery_contracts.log import LogPage, LogRequest
from finery_contracts.prices import PriceList
from finery_kit.bus import ask
from finery_kit.service import Service
from finery_kit.settings import SettingsError

SHIPPED = Path(__file__).with_name("prices.yaml")


def load_prices(file: Path | None) -> PriceList:
    """The operator's price list, or the one that is shipped.

    Raises:
        SettingsError: the file cannot be read, or a value in it is not valid.
    """
    path = file or SHIPPED
    try:
        prices = PriceList.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")), extra="forbid")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise SettingsError(f"finery: FINERY_PRICES_FILE {path} cannot be read: {fault}") from fault
    except ValidationError as fault:
        wrong = [f"  {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in fault.errors()]
        raise _not_valid(path, wrong) from fault
    wrong = [f"  {place}: give versions oldest first, each once" for place in places_out_of_order(prices)]
    wrong += [f"  {place}: {fault}" for place, fault in offers_that_cannot_be(prices)]
    if wrong:
        raise _not_valid(path, wrong)
    return prices


class StudioLog:
    """The event log, asked for over the bus."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def page(self, asked: LogRequest, actor: Actor | None) -> LogPage:
        """Some of it."""
        return await ask(self._service.client, "studio", "events", asked, LogPage, actor=actor)


def _not_valid(path: Path, wrong: list[str]) -> SettingsError:
    return SettingsError(f"finery: the price list {path} (FINERY_PRICES_FILE) is not valid\n" + "\n".join(wrong))
