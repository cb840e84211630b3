"""What the notifier decides, as pure functions: who hears a fact, and what becomes of a delivery after an attempt.

It refuses clocks, randomness and I/O: the moment and the jitter are handed in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
MAX_PATTERNS = 100
MAX_LIVE_SECRETS = 4
_PATTERN = re.compile(r"[a-z_]{1,64}\.([a-z_]{1,64}|\*)")

MOVES: dict[SubscriptionState, frozenset[SubscriptionState]] = {
    SubscriptionState.PENDING: frozenset(
        {SubscriptionState.CONFIRMED, SubscriptionState.DISABLED, SubscriptionState.UNSUBSCRIBED}
    ),
    SubscriptionState.CONFIRMED: frozenset({SubscriptionState.DISABLED, SubscriptionState.UNSUBSCRIBED}),
    SubscriptionState.DISABLED: frozenset({SubscriptionState.CONFIRMED, SubscriptionState.UNSUBSCRIBED}),
    SubscriptionState.UNSUBSCRIBED: frozenset(),
}


class Purpose(StrEnum):
    """What a delivery carries: a fact, or the question whether facts are wanted."""

    FACT = "fact"
    CONFIRMATION = "confirmation"


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: a status, or why there is none.

    ``agreed``: the handshake was answered with yes. ``permanent``: no later attempt can do better. ``gone``: nobody is
    there any more. The rest is for the delivery log.
    """

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    agreed: bool = False
    permanent: bool = False
    gone: bool = False
    duration_s: float = 0.0
    request_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    answer_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    answer_body: bytes = b""

    @property
    def delivered(self) -> bool:
        """SPEC NO3: 2xx and nothing else; a redirect is a failure, and so is an answer that did not end in time."""
        return self.agreed or (self.error is None and self.status is not None and 200 <= self.status < 300)


@dataclass(frozen=True)
class Settled:
    """A delivery's state after an attempt."""

    state: Literal["waiting", "delivered", "dead"]
    due_at: datetime
    error: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long an endpoint may fail before it is switched off."""

    failing_s: float = 259_200.0
    dead_in_row: int = 10

    def ended(self, failing_since: datetime | None, dead_in_row: int, now: datetime) -> str | None:
        """Why it is to be switched off now, or None."""
        if dead_in_row >= self.dead_in_row:
            return f"{dead_in_row} deliveries in a row were given up"
        if failing_since is not None and (now - failing_since).total_seconds() >= self.failing_s:
            return f"every attempt since {failing_since.isoformat(timespec='seconds')} has failed"
        return None


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
    if len(patterns) > MAX_PATTERNS:
        raise InvalidRequest(f"at most {MAX_PATTERNS} events can be named", code="unknown_event", param="events")
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
    if is_gone(outcome):
        return Settled("dead", now, f"{error}: it is gone, the subscription was disabled")
    if outcome.permanent:
        return Settled("dead", now, f"{error}; another attempt would end the same")
    if attempts > len(schedule_s):
        return Settled("dead", now, f"{error}; given up after {attempts} attempts")
    wait_s = schedule_s[attempts - 1] * (1 + JITTER * jitter)
    asked_s = min(outcome.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    return Settled("waiting", now + timedelta(seconds=max(wait_s, asked_s)), error)


def is_gone(outcome: Outcome) -> bool:
    """Whether nobody is there any more."""
    return outcome.gone or outcome.status == GONE


def live_secrets(secret: str, retiring: Sequence[Sequence[str]] | None, now: datetime) -> list[str]:
    """What signs now: the newest first, then those whose overlap is not over."""
    return [secret, *(old for old, until in retiring or () if datetime.fromisoformat(until) > now)]


def retire(
    secret: str, retiring: Sequence[Sequence[str]] | None, *, overlap_s: float, now: datetime
) -> list[list[str]]:
    """The secrets that go on signing beside a new one, newest first, each with its end.

    Raises:
        Conflict: too many sign already; code ``rotating_too_often``.
    """
    kept = [[old, until] for old, until in retiring or () if datetime.fromisoformat(until) > now]
    if overlap_s <= 0:
        return []
    if len(kept) + 2 > MAX_LIVE_SECRETS:
        raise Conflict(
            f"{len(kept) + 1} secrets sign already; wait until an overlap is over, or rotate with overlap_s 0",
            code="rotating_too_often",
        )
    return [[secret, (now + timedelta(seconds=overlap_s)).isoformat()], *kept]
