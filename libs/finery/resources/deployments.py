"""Deployments: a model behind a name that OpenAI's client can call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from finery.errors import ServerFailed
from finery.resources.tasks import FIRST_POLL_S, LAST_POLL_S
from finery.transport import Page, Transport, every
from finery_contracts.deployments import DeploymentState, DeploymentView, DeployRequest
from finery_contracts.errors import ErrorBody
from finery_contracts.log import LoggedEvent

PATH = "/api/v1/deployments"


class Deployments:
    """``client.deployments``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: DeployRequest) -> DeploymentView:
        """Deploy a model under a name; it answers once it is ``running``."""
        return self._transport.view(DeploymentView, "POST", PATH, json=request.model_dump(mode="json"))

    def get(self, ref: str) -> DeploymentView:
        """One deployment, by id or name."""
        return self._transport.view(DeploymentView, "GET", f"{PATH}/{ref}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[DeploymentView]:
        """Oldest first."""
        return self._transport.page(DeploymentView, PATH, limit=limit, after=after)

    def all(self) -> Iterator[DeploymentView]:
        """Every deployment, oldest first."""
        return every(lambda after: self.list(limit=100, after=after))

    def events(self, ref: str, *, after: int | None = None, limit: int = 100) -> Page[LoggedEvent]:
        """What happened to it, oldest first; of the last days that the policy shows (``deployment_events_days``)."""
        return self._transport.page(LoggedEvent, f"{PATH}/{ref}/events", after=after, limit=limit)

    def start(self, ref: str) -> DeploymentView:
        """Start one that was stopped."""
        return self._transport.view(DeploymentView, "POST", f"{PATH}/{ref}/start")

    def stop(self, ref: str) -> DeploymentView:
        """Stop it; what it has accepted is answered first."""
        return self._transport.view(DeploymentView, "POST", f"{PATH}/{ref}/stop")

    def delete(self, ref: str) -> DeploymentView:
        """Remove it; its name is free again."""
        return self._transport.view(DeploymentView, "DELETE", f"{PATH}/{ref}")

    def wait(
        self, ref: str, state: DeploymentState, *, timeout_s: float = 180.0,
        on_progress: Callable[[DeploymentView], None] | None = None,
    ) -> DeploymentView:  # fmt: skip
        """The deployment, once it is in ``state``.

        Raises:
            ServerFailed: it failed instead; code and message are the deployment's own.
            TimeoutError: it is in another state still.
        """
        until, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
        while True:
            view = self.get(ref)
            if on_progress is not None:
                on_progress(view)
            if view.state is state:
                return view
            if view.state is DeploymentState.FAILED:
                fallback = ErrorBody(code="deployment_failed", message=f"deployment {view.name} failed")
                raise ServerFailed(view.error or fallback, status=200)
            if time.monotonic() > until:
                raise TimeoutError(f"deployment {ref} is {view.state} after {timeout_s:g} s, not {state}")
            time.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.25)
