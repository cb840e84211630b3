"""Who may go through the model next: one thread, one step for each active request in turn, the rest waits in line.

It refuses more than it can hold (429), and everything once it drains (503); what it accepted it ends, one way or other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from finery_contracts.errors import EngineFailed, FineryError, RateLimited, Unavailable
from finery_contracts.jobs import ServeStatus
from finery_deployer.engine.generation import Delta, Order, Run

MAX_ACTIVE = 8
"""Requests that take turns."""

MAX_ROWS = 16
"""Choices of all active requests together: each keeps its own attention cache in memory."""

MAX_WAITING = 64
"""Requests in line; one more is refused."""

log = logging.getLogger(__name__)

Deliver = Callable[[list[Delta] | FineryError | None], None]
"""Called from the scheduler's thread with what was gained; at last with None, or with the error that ended it."""


class Ticket:
    """A request that was accepted."""

    def __init__(self, order: Order, deliver: Deliver) -> None:
        self.order = order
        self.deliver = deliver
        self.cancelled = False
        self.run: Run | None = None


class Scheduler:
    """The only one that uses the model. Its methods may be called from any thread."""

    def __init__(self, begin: Callable[[Order], Run]) -> None:
        self._begin = begin
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._active: list[Ticket] = []
        self._draining = False
        self._closed = False
        self._served = self._prompt_tokens = self._completion_tokens = 0
        self._idle_since = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, order: Order, deliver: Deliver) -> Ticket:
        """Take a request.

        Raises:
            RateLimited: as many wait as may wait.
            Unavailable: this instance drains, or its thread is dead.
        """
        with self._changed:
            if self._draining or not self._thread.is_alive():
                raise Unavailable("this instance is stopping; send the request again", retry_after_s=1)
            if len(self._waiting) >= MAX_WAITING:
                raise RateLimited(f"{MAX_WAITING} requests wait already; send it again later", retry_after_s=1)
            ticket = Ticket(order, deliver)
            self._waiting.append(ticket)
            self._changed.notify_all()
            return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request whose caller has gone; it makes no further step. One that has ended stays ended."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._note_end()

    def status(self) -> ServeStatus:
        """The counts so far."""
        with self._changed:
            busy = len(self._active) + len(self._waiting)
            return ServeStatus(
                active=busy,
                served=self._served,
                idle_s=0.0 if busy else time.monotonic() - self._idle_since,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
            )

    @property
    def healthy(self) -> bool:
        """Whether a request would be accepted, were there room."""
        return self._thread.is_alive() and not self._draining

    def drain(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self._draining = True

    def close(self) -> None:
        """End every request that is left with an error, and the thread."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            left = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
        for ticket in left:
            ticket.deliver(Unavailable("the instance stopped before the answer was complete; send it again"))

    def _work(self) -> None:
        with torch.inference_mode():
            while tickets := self._next_round():
                for ticket in tickets:
                    self._advance(ticket)

    def _next_round(self) -> list[Ticket]:
        """Wait for work, let in what has room; empty when the scheduler was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            if self._closed:
                return []
            while self._waiting and self._has_room_for(self._waiting[0]):
                self._active.append(self._waiting.popleft())
            return list(self._active)

    def _has_room_for(self, ticket: Ticket) -> bool:
        rows = sum(other.order.n for other in self._active)
        return not self._active or (len(self._active) < MAX_ACTIVE and rows + ticket.order.n <= MAX_ROWS)

    def _advance(self, ticket: Ticket) -> None:
        """One step of one request. Whatever a step raises ends this request only; the log has the details."""
        if ticket.cancelled:
            self._retire(ticket)
            return
        try:
            ticket.run = ticket.run or self._begin(ticket.order)
            deltas = ticket.run.step()
        except Exception:
            log.exception("generation_failed")
            self._retire(ticket)
            ticket.deliver(EngineFailed("the engine failed on this request; send it again, or see the engine's log"))
            return
        with self._changed:
            self._completion_tokens += sum(delta.tokens for delta in deltas)
        if deltas:
            ticket.deliver(deltas)
        if ticket.run.done:
            self._retire(ticket, answered=True)
            ticket.deliver(None)

    def _retire(self, ticket: Ticket, *, answered: bool = False) -> None:
        with self._changed:
            self._active.remove(ticket)
            self._served += answered
            self._prompt_tokens += len(ticket.order.prompt) if ticket.run else 0
            self._note_end()

    def _note_end(self) -> None:
        self._idle_since = time.monotonic()
