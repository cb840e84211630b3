"""The event log of a project: read from any time on, or followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from finery.transport import Page, Transport, every
from finery_contracts.model import Record

PATH = "/api/v1/events"


class LoggedEvent(Record):
    """An event as it was published; ``seq`` is the cursor. ``finery_contracts.registry`` parses what it knows."""

    seq: int
    event: dict[str, Any] = Field(description="a CloudEvent")


class Events:
    """``client.events``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, after: int | None = None, since: str | None = None, noun: str | None = None, limit: int = 100
    ) -> Page[LoggedEvent]:
        """Oldest first. ``since``: an ISO time; ``noun``: the id of a task, dataset, model, …"""
        return self._transport.page(LoggedEvent, PATH, after=after, since=since, noun=noun, limit=limit)

    def all(self, *, since: str | None = None, noun: str | None = None) -> Iterator[LoggedEvent]:
        """Every event, page by page."""
        return every(
            lambda after: self.list(after=int(after) if after else None, since=since, noun=noun, limit=1000)
        )  # fmt: skip

    def follow(
        self, *, after: int | None = None, since: str | None = None, noun: str | None = None
    ) -> Iterator[LoggedEvent]:
        """Events as they come, for as long as the connection lasts; begin again with the last ``seq``."""
        asked = {"after": after, "since": since, "noun": noun, "follow": True}
        said = {key: value for key, value in asked.items() if value is not None}
        seq = after or 0
        with self._transport.stream("GET", PATH, params=said) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seq = int(value)
                elif name == "data":
                    yield LoggedEvent(seq=seq, event=json.loads(value))
