"""Where tasks run: pools, flavours, quotas."""

from __future__ import annotations

from collections.abc import Mapping

from finery.transport import Page, Transport
from finery_contracts.pools import Flavour, PoolView, QuotaView

POOLS, FLAVOURS, QUOTAS = "/api/v1/pools", "/api/v1/flavours", "/api/v1/quotas"


class Pools:
    """``client.pools``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[PoolView]:
        """The public ones and the project's own."""
        return self._transport.page(PoolView, POOLS)

    def get(self, pool: str) -> PoolView:
        """One, by id or name."""
        return self._transport.view(PoolView, "GET", f"{POOLS}/{pool}")

    def create(
        self, name: str, flavours: Mapping[str, int | None], *, driver: str | None = None, public: bool = False,
        description: str = "",
    ) -> PoolView:  # fmt: skip
        """Make one. ``flavours``: slots of each, None as many as its workers have. ``public``: for operators."""
        body = {
            "name": name, "flavours": dict(flavours), "driver": driver, "public": public, "description": description,
        }  # fmt: skip
        return self._transport.view(PoolView, "POST", POOLS, json=body)

    def change(
        self, pool: str, *, flavours: Mapping[str, int | None] | None = None, driver: str | None = None
    ) -> PoolView:
        """Other slots, another driver; what is left out stays."""
        asked = {"flavours": None if flavours is None else dict(flavours), "driver": driver}
        said = {name: value for name, value in asked.items() if value is not None}
        return self._transport.view(PoolView, "PATCH", f"{POOLS}/{pool}", json=said)

    def delete(self, pool: str) -> None:
        """Remove one in which nothing is unfinished. This cannot be undone."""
        self._transport.send("DELETE", f"{POOLS}/{pool}", params={"confirm": "DELETE"})


class Flavours:
    """``client.flavours``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, pool: str | None = None, kind: str | None = None, method: str | None = None, model: str | None = None
    ) -> Page[Flavour]:
        """All, or those that a pool offers, that can do a kind or method, that a model's weights fit."""
        return self._transport.page(Flavour, FLAVOURS, pool=pool, kind=kind, method=method, model=model)


class Quotas:
    """``client.quotas``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[QuotaView]:
        """The project's own; for operators, every project's."""
        return self._transport.page(QuotaView, QUOTAS)

    def change(self, project: str, **limits: int | None) -> QuotaView:
        """For operators: ``running_slots``, ``waiting_tasks``, ``share``; None goes back to the default."""
        return self._transport.view(QuotaView, "PATCH", f"{QUOTAS}/{project}", json=limits)
