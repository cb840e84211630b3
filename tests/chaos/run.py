"""One run of chaos: start the house, load it, break it, leave it in peace, read its histories, judge them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finery_kit.postgres_server import postgres_server
from tests.chaos.checker import Verdict, judge, pending
from tests.chaos.faults import Fault, break_things, make_schedule
from tests.chaos.history import History, Reader, starts
from tests.chaos.house import ChaosHouse, chaos_house
from tests.chaos.load import Load, make_wishes
from tests.chaos.proxy import Open, to_socket
from tests.chaos.receiver import receiving

QUIET_S = 30.0
LONGEST_QUIET_S = 600.0
Kind = Literal["sqlite", "postgres"]
DATABASES = ("studio", "deployer", "notifier", "billing_meter")


@dataclass(frozen=True)
class Plan:
    """How much of what."""

    database: Kind
    seed: int
    kills: int
    tasks: int
    projects: int = 4


@dataclass
class Outcome:
    """What came of it."""

    verdict: Verdict
    kills: int
    tasks: int
    settled_s: float

    def line(self) -> str:
        """The last line of a run."""
        return f"chaos kills={self.kills} tasks={self.tasks} {self.verdict}"


async def chaos(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Outcome:
    """All of it; whatever happens, nothing is left running."""
    rng = random.Random(plan.seed)
    tell(f"chaos seed={plan.seed} database={plan.database}")
    with _database(plan.database) as (opened, url):
        async with receiving(random.Random(rng.random())) as receiver, chaos_house(
            folder, database=opened, database_url=url
        ) as house:  # fmt: skip
            left: list[str] | None = None
            try:
                proxies = ["bus", "http", *(["database"] if opened else [])]
                names = [child.name for child in house.children]
                faults = make_schedule(rng, kills=plan.kills, processes=names, proxies=proxies)
                within_s = sum(fault.then_s for fault in faults)
                wishes = make_wishes(rng, tasks=plan.tasks, projects=plan.projects, within_s=within_s)
                load = Load(house, receiver, wishes)
                await load.prepare(plan.projects)
                kills, settled_s, histories = await _broken(house, load, faults, tell)
                verdict = judge(histories, wishes, load.accepted, starts(folder))
                left = await house.leave()
                verdict.stuck += [f"an engine outlived its worker: {process}" for process in left]
                tasks = sum(len(history.tasks) for history in histories)
                return Outcome(verdict, kills, tasks, settled_s)
            finally:
                if left is None:
                    await house.leave()


async def _broken(
    house: ChaosHouse, load: Load, faults: list[Fault], tell: Callable[[str], None]
) -> tuple[int, float, list[History]]:
    began = time.monotonic()

    def say(fault: Fault) -> None:
        tell(f"{time.monotonic() - began:6.1f} s  {fault.what} {fault.target}")

    asking = asyncio.create_task(load.run())
    kills = await break_things(house, faults, say)
    await house.whole()
    load.receiver.peaceful = True
    tell(f"{time.monotonic() - began:6.1f} s  no more faults")
    readers = [Reader(load, project, History(project.id)) for project in load.projects]
    settled_s = await _settle(asking, readers, tell)
    if not asking.done():
        asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    histories = [await reader.read() for reader in readers]
    await load.close()
    return kills, settled_s, histories


async def _settle(asking: asyncio.Task[None], readers: list[Reader], tell: Callable[[str], None]) -> float:
    """Until everything has come to rest, or nothing has moved for thirty seconds; how long it took."""
    peace = moved = time.monotonic()
    before: object = None
    while True:
        histories = [await reader.read() for reader in readers]
        waiting = [words for history in histories for words in pending(history)]
        if asking.done() and not waiting:
            return time.monotonic() - peace
        now = [(len(h.events), len(h.lines), sum(h.delivered.values())) for h in histories]
        if now != before:
            before, moved = now, time.monotonic()
        if time.monotonic() - moved > QUIET_S or time.monotonic() - peace > LONGEST_QUIET_S:
            for words in waiting[:20]:
                tell(f"waiting: {words}")
            return time.monotonic() - peace
        await asyncio.sleep(0.5)


@contextlib.contextmanager
def _database(kind: Kind) -> Iterator[tuple[Open | None, str]]:
    if kind == "sqlite":
        yield None, ""
        return
    with postgres_server() as server, server.house(DATABASES) as url:
        database = url.partition("?")[0].rpartition("/")[2]
        through = f"postgresql+psycopg://postgres@127.0.0.1:{{port}}/{database}"
        yield to_socket(f"{server.socket}/.s.PGSQL.5432"), through
