"""What something costs at a moment. Pure. It refuses to guess: what has no price then is an error, not a gift."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Generic, TypeVar

from finery_contracts.errors import FineryError
from finery_contracts.prices import HourPrice, MessagePrice, PackageOffer, PriceList, TokenPrice

Version = TypeVar("Version", HourPrice, TokenPrice, MessagePrice)
OTHER_CHANNELS = "other"
FREE = Decimal(0)


class PriceMissing(FineryError):
    """No price is valid at that time; add it to the price list and replay the message from DEAD."""

    code = "price_missing"


class PriceBook:
    """A price list, ready for being asked often."""

    def __init__(self, prices: PriceList) -> None:
        self.prices = prices
        self.currency = prices.currency
        self._flavours = {flavour: _Versions(versions) for flavour, versions in prices.flavours.items()}
        self._tokens = _Versions(prices.tokens)
        self._channels = {channel: _Versions(versions) for channel, versions in prices.notifications.items()}
        self._offers = {offer.name: offer for offer in prices.packages}

    def hour(self, flavour: str, moment: datetime) -> Decimal:
        """What an hour of one instance costs when it starts then.

        Raises:
            PriceMissing: the flavour has no price at that time.
        """
        versions = self._flavours.get(flavour)
        version = versions.at(moment) if versions is not None else None
        if version is None:
            raise PriceMissing(_missing(f"flavour {flavour}", moment))
        return version.per_hour

    def tokens(self, moment: datetime) -> TokenPrice:
        """What a token costs that is answered then.

        Raises:
            PriceMissing: tokens have no price at that time.
        """
        version = self._tokens.at(moment)
        if version is None:
            raise PriceMissing(_missing("tokens", moment))
        return version

    def message(self, channel: str, moment: datetime) -> Decimal:
        """What a notification costs; nothing where the list names neither the channel nor ``other``.

        Raises:
            PriceMissing: the channel is named but has no price at that time.
        """
        versions = self._channels.get(channel) or self._channels.get(OTHER_CHANNELS)
        if versions is None:
            return FREE
        version = versions.at(moment)
        if version is None:
            raise PriceMissing(_missing(f"notifications by {channel}", moment))
        return version.per_message

    def offer(self, name: str) -> PackageOffer | None:
        """A package that can be bought."""
        return self._offers.get(name)


def places_out_of_order(prices: PriceList) -> Iterator[str]:
    """Places in the list where a version is not later than the one before it, or where there is none."""
    for flavour, versions in prices.flavours.items():
        if not versions:
            yield f"flavours.{flavour}"
        yield from (f"flavours.{flavour}.{place}.valid_from" for place in _disordered(versions))
    yield from (f"tokens.{place}.valid_from" for place in _disordered(prices.tokens))
    for channel, versions in prices.notifications.items():
        if not versions:
            yield f"notifications.{channel}"
        yield from (f"notifications.{channel}.{place}.valid_from" for place in _disordered(versions))


def offers_that_cannot_be(prices: PriceList) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) of packages: a name twice, a flavour that the list does not price."""
    names: set[str] = set()
    for place, offer in enumerate(prices.packages):
        if offer.name in names:
            yield f"packages.{place}.name", f"{offer.name} is there twice"
        if offer.flavour not in prices.flavours:
            yield f"packages.{place}.flavour", f"there is no flavour {offer.flavour} in this list"
        names.add(offer.name)


class _Versions(Generic[Version]):
    def __init__(self, versions: Sequence[Version]) -> None:
        self._versions = list(versions)
        self._from: list[datetime] = [version.valid_from for version in versions]

    def at(self, moment: datetime) -> Version | None:
        place = bisect_right(self._from, moment)
        return self._versions[place - 1] if place else None


def _missing(what: str, moment: datetime) -> str:
    return (
        f"the price list has no price for {what} at {moment.isoformat()}; add one to FINERY_PRICES_FILE, restart the "
        "billing meter and replay the message from DEAD"
    )


def _disordered(versions: Sequence[HourPrice] | Sequence[TokenPrice] | Sequence[MessagePrice]) -> list[int]:
    return [
        place
        for place, (earlier, later) in enumerate(pairwise(versions), start=1)
        if later.valid_from <= earlier.valid_from
    ]
