"""Refilling lost streams from SQL: what an owner of an outbox is asked, and what it answers."""

from __future__ import annotations

from pydantic import Field

from finery_contracts.model import Record


class RebuildState(Record):
    """How far one owner has come."""

    owner: str
    running: bool = Field(default=False, description="its outbox is being compared with the stream")
    checked: int = Field(default=0, description="facts that were compared")
    lost: int = Field(default=0, description="of these, facts that the stream had lost and that are said again")
    waiting: int = Field(default=0, description="facts that the bus does not have yet")
    error: str | None = None


class RebuildPage(Record):
    """Every owner."""

    data: list[RebuildState]
    done: bool
