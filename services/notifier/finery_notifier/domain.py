"""What the notifier decides, as pure functions: who hears a fact, and what becomes of a delivery after an attempt.

It refuses clocks, randomness and I/O: the moment and the jitter are handed in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.notifications import SubscriptionState
from finery_contracts.tasks import NotifyChoice

ALL_TOPIC = "all"
GONE = 410
MAX_RETRY_AFTER_S = 86_400.0
JITTER = 0.1
_PATTERN = re.compile(r"[a-z_]{1,64}\.([a-z_]{1,64}|\*)")

MOVES: dict[SubscriptionState, frozenset[SubscriptionState]] = {
    SubscriptionState.PENDING: frozenset({SubscriptionState.CONFIRMED, SubscriptionState.DISABLED}),
    SubscriptionState.CONFIRMED: frozenset({SubscriptionState.DISABLED}),
    SubscriptionState.DISABLED: frozenset(),
    SubscriptionState.UNSUBSCRIBED: frozenset(),
}


class Purpose(StrEnum):
    """What a delivery carries: a fact, or the question whether facts are wanted."""

    FACT = "fact"
    CONFIRMATION = "confirmation"


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: a status, or why there is none. ``agreed``: the handshake was answered with yes."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    agreed: bool = False

    @property
    def delivered(self) -> bool:
        """SPEC NO3: 2xx and nothing else; a redirect is a failure."""
        return self.agreed or (self.status is not None and 200 <= self.status < 300)


@dataclass(frozen=True)
class Settled:
    """A delivery's state after an attempt."""

    state: Literal["waiting", "delivered", "dead"]
    due_at: datetime
    error: str | None = None


def topics_of(fact: str, notify: NotifyChoice | None) -> frozenset[str]:
    """Names or ids of the topics a fact goes to: the chosen one, and the one that hears everything."""
    if notify is None or not hears(notify.events, fact):
        return frozenset({ALL_TOPIC})
    return frozenset({ALL_TOPIC, notify.topic})


def hears(patterns: Collection[str], fact: str) -> bool:
    """Whether ``task.succeeded`` is meant by one of ``task.succeeded``, ``task.*``, ``succeeded``; none means all."""
    noun, name = fact.split(".", 1)
    return not patterns or any(pattern in (fact, name, f"{noun}.*") for pattern in patterns)


def check_patterns(patterns: Sequence[str], facts: Collection[str]) -> None:
    """Refuse a filter that could never match, so that a typing mistake is seen.

    Raises:
        InvalidRequest: code ``unknown_event``, with what there is.
    """
    nouns = {f"{fact.split('.', 1)[0]}.*" for fact in facts}
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern) or (pattern not in facts and pattern not in nouns):
            known = ", ".join([*sorted(nouns), *sorted(facts)])
            raise InvalidRequest(
                f"there is no event {pattern[:80]!r} to hear; choose from: {known}",
                code="unknown_event",
                param="events",
            )


def move(state: SubscriptionState, to: SubscriptionState) -> SubscriptionState:
    """The new state.

    Raises:
        Conflict: the table of moves does not have it; both states are named.
    """
    if to not in MOVES[state]:
        raise Conflict(f"a subscription that is {state} cannot become {to}; make a new one", code="illegal_move")
    return to


def refusal(purpose: Purpose, state: SubscriptionState, *, confirm_until: datetime, now: datetime) -> str | None:
    """Why a delivery that is due must not be sent any more, or None. Only the question goes to a pending endpoint."""
    if purpose is Purpose.FACT:
        return None if state is SubscriptionState.CONFIRMED else f"the subscription is {state}"
    if state is not SubscriptionState.PENDING:
        return f"the subscription is {state}"
    return None if now <= confirm_until else "nobody confirmed the subscription in time; make a new one"


def settle(
    outcome: Outcome, *, attempts: int, schedule_s: Sequence[float], now: datetime, jitter: float = 0.0
) -> Settled:
    """What becomes of a delivery whose attempt number ``attempts`` ended so; ``jitter`` lies in 0…1."""
    if outcome.delivered:
        return Settled("delivered", now)
    error = outcome.error or f"the endpoint answered {outcome.status}"
    if outcome.status == GONE:
        return Settled("dead", now, f"{error}: it is gone, the subscription was disabled")
    if attempts > len(schedule_s):
        return Settled("dead", now, f"{error}; given up after {attempts} attempts")
    wait_s = schedule_s[attempts - 1] * (1 + JITTER * jitter)
    asked_s = min(outcome.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    return Settled("waiting", now + timedelta(seconds=max(wait_s, asked_s)), error)
