"""What can be read of the house through its public interfaces: the event log, tasks, models, data sets, the bill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.engine import MARKS
from tests.chaos.load import Load, Project

Json = dict[str, Any]


@dataclass
class History:
    """Of one project."""

    project: str
    events: list[Json] = field(default_factory=list[Json])
    """CloudEvents in the order of the log."""
    places: list[int] = field(default_factory=list[int])
    tasks: list[Json] = field(default_factory=list[Json])
    models: list[Json] = field(default_factory=list[Json])
    datasets: list[Json] = field(default_factory=list[Json])
    lines: list[Json] = field(default_factory=list[Json])
    delivered: Mapping[tuple[str, str], int] = field(default_factory=Counter[tuple[str, str]])
    """(fact, task) → how often the subscriber took it."""
    prices: Mapping[str, str] = field(default_factory=dict[str, str])
    """Flavour → price of an hour, as text."""


@dataclass
class Reader:
    """Reads one project again and again; of the log only what is new."""

    load: Load
    project: Project
    history: History
    _after: int = 0

    async def read(self) -> History:
        """Everything that is there now."""
        ask, client = self.load.ask, self.project.client
        more = True
        while more:
            page = await ask(client, "GET", f"/api/v1/events?after={self._after}&limit=1000")
            self.history.events += [entry["event"] for entry in page["data"]]
            self.history.places += [entry["seq"] for entry in page["data"]]
            self._after, more = page["next"], page["has_more"]
        self.history.tasks = await self._all("/api/v1/tasks")
        self.history.models = await self._all("/api/v1/models")
        self.history.datasets = await self._all("/api/v1/datasets")
        self.history.lines = await self._all("/api/v1/bill/lines")
        self.history.delivered = self.load.receiver.taken.get(self.project.id, Counter())
        prices = (await ask(client, "GET", "/api/v1/prices"))["flavours"]
        self.history.prices = {flavour: str(versions[-1]["per_hour"]) for flavour, versions in prices.items()}
        return self.history

    async def _all(self, path: str) -> list[Json]:
        found, after = list[Json](), ""
        while True:
            page = await self.load.ask(self.project.client, "GET", f"{path}?limit=100{after}")
            found += page["data"]
            if not page.get("has_more"):
                return found
            after = f"&after={page['data'][-1]['id']}"


def starts(folder: Path) -> Counter[tuple[str, int]]:
    """(task, attempt) → how many engines were started for it."""
    marks = [mark.name.split(".") for mark in (folder / MARKS).iterdir()]
    return Counter((task, int(attempt)) for task, attempt, *_ in marks)
