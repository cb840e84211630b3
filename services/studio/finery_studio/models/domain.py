"""When a temporary model goes, and when notice of that is given. Pure: policy is handed in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finery_contracts.models import ModelView


def is_over(view: ModelView, now: datetime) -> bool:
    """Its time is up."""
    return view.expires_at is not None and now >= view.expires_at


def notices_due(view: ModelView, days: Iterable[int], now: datetime) -> list[int]:
    """The notices that were not given yet and are due; several at once after an outage make one fact."""
    if view.expires_at is None:
        return []
    return [ahead for ahead in days if ahead not in view.notices and now >= view.expires_at - timedelta(days=ahead)]
