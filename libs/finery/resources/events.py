"""The event log of a project: read from any time on, or followed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from finery.errors import ConnectionFailed
from finery.transport import Page, Transport, every
from finery_contracts.log import LoggedEvent

PATH = "/api/v1/events"
AGAIN_S = 1.0


class Events:
    """``client.events``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, after: int | None = None, since: str | None = None, noun: str | None = None,
        types: Sequence[str] = (), limit: int = 100,
    ) -> Page[LoggedEvent]:  # fmt: skip
        """Oldest first. ``since``: an ISO time or date; ``noun``: the id of a task, dataset, model, …: its history and
        what others said about it; ``types``: such as ``task.succeeded`` or ``task.*``."""
        return self._transport.page(
            LoggedEvent, PATH, after=after, since=since, noun=noun, types=[*types] or None, limit=limit
        )

    def since(
        self, moment: str | None = None, *, noun: str | None = None, types: Sequence[str] = ()
    ) -> Iterator[LoggedEvent]:
        """Every event from a time on (or all there are), page by page."""
        return every(
            lambda after: self.list(
                after=int(after) if after else None, since=moment, noun=noun, types=types, limit=1000
            )
        )  # fmt: skip

    def follow(
        self, *, after: int | None = None, since: str | None = None, noun: str | None = None,
        types: Sequence[str] = (),
    ) -> Iterator[LoggedEvent]:  # fmt: skip
        """Events as they come, each once, for ever: when the connection breaks, it goes on after the last one seen."""
        seq, began = after or 0, False
        while True:
            try:
                for event in self._stream(seq, since=since, noun=noun, types=[*types] or None):
                    seq, began = event.seq, True
                    yield event
            except ConnectionFailed:
                if not began:
                    raise
            time.sleep(AGAIN_S)

    def _stream(self, after: int, **asked: Any) -> Iterator[LoggedEvent]:
        said = {key: value for key, value in {"after": after, "follow": True, **asked}.items() if value is not None}
        seq, data = after, list[str]()
        with self._transport.stream("GET", PATH, params=said) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seq = int(value)
                elif name == "data":
                    data.append(value)
                elif not line and data:
                    yield LoggedEvent(seq=seq, event=json.loads("\n".join(data)))
                    data = []


__all__ = ["Events", "LoggedEvent"]
