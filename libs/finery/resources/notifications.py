"""Topics and subscriptions: who hears of what, and what became of each delivery."""

from __future__ import annotations

import time
from collections.abc import Sequence

from finery.resources.tasks import FIRST_POLL_S, LAST_POLL_S
from finery.transport import Page, Transport
from finery_contracts.notifications import DeliveryView, SubscriptionState, SubscriptionView, TopicView

TOPICS, SUBSCRIPTIONS = "/api/v1/topics", "/api/v1/subscriptions"


class Topics:
    """``client.topics``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, *, description: str = "") -> TopicView:
        """Make a topic; tasks and deployments name it in ``notify``."""
        return self._transport.view(TopicView, "POST", TOPICS, json={"name": name, "description": description})

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[TopicView]:
        """Oldest first."""
        return self._transport.page(TopicView, TOPICS, limit=limit, after=after)

    def delete(self, ref: str) -> TopicView:
        """Remove it with its subscriptions."""
        return self._transport.view(TopicView, "DELETE", f"{TOPICS}/{ref}")


class Subscriptions:
    """``client.subscriptions``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, topic: str, url: str, *, events: Sequence[str] = (), description: str = ""
    ) -> SubscriptionView:  # fmt: skip
        """Subscribe an endpoint. The answer alone carries ``secret``; keep it for ``finery.webhooks.verify``."""
        body = {"topic": topic, "url": url, "events": list(events), "description": description}
        return self._transport.view(SubscriptionView, "POST", SUBSCRIPTIONS, json=body)

    def get(self, ref: str) -> SubscriptionView:
        """One subscription."""
        return self._transport.view(SubscriptionView, "GET", f"{SUBSCRIPTIONS}/{ref}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[SubscriptionView]:
        """Oldest first."""
        return self._transport.page(SubscriptionView, SUBSCRIPTIONS, limit=limit, after=after)

    def delete(self, ref: str) -> SubscriptionView:
        """Remove it; what was on its way is dropped."""
        return self._transport.view(SubscriptionView, "DELETE", f"{SUBSCRIPTIONS}/{ref}")

    def deliveries(self, ref: str, *, limit: int = 20, after: str | None = None) -> Page[DeliveryView]:
        """What was sent, newest first."""
        return self._transport.page(DeliveryView, f"{SUBSCRIPTIONS}/{ref}/deliveries", limit=limit, after=after)

    def wait(self, ref: str, state: SubscriptionState, *, timeout_s: float = 30.0) -> SubscriptionView:
        """The subscription, once it is in ``state``.

        Raises:
            TimeoutError: it is in another state still.
        """
        until, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
        while (view := self.get(ref)).state is not state:
            if time.monotonic() > until:
                raise TimeoutError(f"subscription {ref} is {view.state} after {timeout_s:g} s, not {state}")
            time.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.25)
        return view
