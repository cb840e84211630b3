"""Buying packages and looking at them, each within the project of who asks."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session

from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger.domain import parts_of
from finery_billing_meter.packages import domain, handlers, store
from finery_billing_meter.packages.domain import Package
from finery_contracts.access import Actor
from finery_contracts.errors import InvalidRequest, NotFound
from finery_contracts.ids import new_id
from finery_contracts.packages import (
    Offers,
    OffersRequest,
    PackagePage,
    PackageRequest,
    PackagesRequest,
    PackageView,
)
from finery_contracts.prices import PackageOffer
from finery_kit.bus import Call
from finery_kit.db import Transaction
from finery_kit.idempotency import once

FURTHEST = timedelta(days=3660)


async def offers(desk: Desk, call: Call[OffersRequest]) -> Offers:
    """``package.offers``: what the price list offers."""
    return Offers(currency=desk.book.currency, data=desk.book.prices.packages)


async def list_packages(desk: Desk, call: Call[PackagesRequest]) -> PackagePage:
    """``package.list``: with what is left of each at this moment."""
    asked, project = call.body, call.by.project
    now = desk.database.now()

    def work(session: Session) -> list[PackageView]:
        rows = store.page(session, project, after=asked.after, limit=asked.limit + 1)
        used = store.taken(session, [row.package for row in rows]).hours
        return [_view(row, used, now) for row in rows]

    found = await desk.database.read(work)
    more = len(found) > asked.limit
    return PackagePage(data=found[: asked.limit], has_more=more, next=found[asked.limit - 1].id if more else None)


async def buy(desk: Desk, call: Call[PackageRequest]) -> PackageView:
    """``package.buy``: the price is charged at once."""
    offer = desk.book.offer(call.body.offer)
    if offer is None:
        names = ", ".join(known.name for known in desk.book.prices.packages) or "none"
        raise NotFound(f"there is no package {call.body.offer}; on offer: {names}", code="offer_not_found")

    def work(tx: Transaction) -> PackageView:
        starts_at = call.body.starts_at or tx.now
        if starts_at < tx.now:
            raise InvalidRequest(
                f"a package cannot begin in the past ({starts_at.isoformat()}); leave starts_at out, or give a "
                "later time", param="starts_at",
            )  # fmt: skip
        if starts_at > tx.now + FURTHEST:
            raise InvalidRequest(f"a package begins within {FURTHEST.days} days", param="starts_at")
        return handlers.buy(tx, _package(offer, call.by, tx.now, starts_at, desk.book.currency))

    bought = await desk.database.write(lambda tx: once(tx, call.asked, PackageView, work))
    desk.wake()
    return bought


def _package(offer: PackageOffer, by: Actor, now: datetime, starts_at: datetime, currency: str) -> Package:
    return Package(
        id=new_id("pkg"), project=by.project, offer=offer.name, flavour=offer.flavour,
        quota_parts=parts_of(offer.hours), reset=offer.reset, starts_at=starts_at,
        ends_at=domain.end_of(offer, starts_at), price_parts=parts_of(offer.price), currency=currency,
        low_percent=offer.low_percent, bought_at=now, bought_by=by.user, event="",
    )  # fmt: skip


def _view(row: store.PackageRow, used: domain.Use, now: datetime) -> PackageView:
    package = row.package
    period = package.window_at(now).period
    return package.view_at(now, used_parts=used.get((package.id, period), 0), version=row.version)
