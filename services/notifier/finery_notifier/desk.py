"""What answering requests needs, and what several answers share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

from finery_contracts.errors import Conflict
from finery_kit.db import Database, Transaction
from finery_kit.netguard import Lookup, Network, system_lookup
from finery_notifier import store
from finery_notifier.tables import DeliveryRow, SubscriptionRow, TopicRow

R = TypeVar("R", TopicRow, SubscriptionRow, DeliveryRow)
MAX_TOPICS = MAX_SUBSCRIPTIONS = 1000


@dataclass(frozen=True)
class Desk:
    """What answering needs. ``wake_courier``, ``wake_relay`` and ``wake_backfill``: something was stored for them."""

    database: Database
    facts: frozenset[str]
    fields: frozenset[str]
    allow: tuple[Network, ...]
    public_url: str
    confirmation_ttl_s: float
    wake_courier: Callable[[], None]
    wake_relay: Callable[[], None]
    wake_backfill: Callable[[], None]
    lookup: Lookup = system_lookup
    email: bool = False
    channels: Collection[str] = field(default=())


def cut(rows: list[R], limit: int) -> tuple[list[R], str | None]:
    """A page out of one row more than a page, and where the next one begins."""
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def check_room(tx: Transaction, table: type[TopicRow] | type[SubscriptionRow], project: str, *, limit: int) -> None:
    """Refuse one more than the limit.

    Raises:
        Conflict: code ``limit_reached``.
    """
    if store.count_of(tx.session, table, project) >= limit:
        noun = "topics" if table is TopicRow else "subscriptions"
        raise Conflict(f"this project has {limit} {noun}, which is the limit; delete some", code="limit_reached")


def hash_of(text: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()
