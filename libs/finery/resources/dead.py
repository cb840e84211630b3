"""Dead letters: messages that a consumer gave up. Only an operator's key opens them."""

from __future__ import annotations

from finery.transport import Transport
from finery_contracts.dead import DeadMessage, DeadPage, Dropped, Replayed

PATH = "/api/v1/dead"


class Dead:
    """``client.dead``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, after: int = 0, limit: int = 100, durable: str | None = None) -> DeadPage:
        """Oldest first."""
        return self._transport.view(
            DeadPage, "GET", PATH, params={"after": after, "limit": limit, **({"durable": durable} if durable else {})}
        )

    def show(self, number: int) -> DeadMessage:
        """One, whole."""
        return self._transport.view(DeadMessage, "GET", f"{PATH}/{number}")

    def replay(self, number: int) -> Replayed:
        """Say it once more to the consumer that gave it up."""
        return self._transport.view(Replayed, "POST", f"{PATH}/{number}/replay")

    def drop(self, number: int) -> Dropped:
        """Remove it for good."""
        return self._transport.view(Dropped, "DELETE", f"{PATH}/{number}")
