"""Refilling the bus from SQL. Only an operator's key may."""

from __future__ import annotations

from finery.transport import Transport
from finery_contracts.rebuild import RebuildPage

PATH = "/api/v1/bus/rebuild"


class Rebuild:
    """``client.rebuild``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def begin(self) -> RebuildPage:
        """Have every owner compare its log with the bus."""
        return self._transport.view(RebuildPage, "POST", PATH)

    def state(self) -> RebuildPage:
        """How far they are."""
        return self._transport.view(RebuildPage, "GET", PATH)
