"""A ledger line as it is stored, and which of those of one key is valid. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, int]
"""Source, package and period: what there is one valid line of."""


def last_rows(rows: Iterable[Row]) -> dict[Key, Row]:
    """The newest row of each key; it is valid when its revision is even."""
    last: dict[Key, Row] = {}
    for row in rows:
        key = (row["source"], row["package"], row["period"])
        if key not in last or row["revision"] > last[key]["revision"]:
            last[key] = row
    return last
