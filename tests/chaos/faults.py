"""Which fault comes when: made from a seed alone, so that the same seed breaks the same things in the same order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.house import ChaosHouse
from tests.chaos.proxy import FaultProxy

SERVICE, ENGINE, BROKER = "service", "engine", "broker"
CONNECTIONS = ("cut", "stall", "delay")


@dataclass(frozen=True)
class Fault:
    """``what`` is killed, or done to connections; ``target`` is a process or a proxy, ``place`` chooses within."""

    what: str
    target: str
    place: float
    lasts_s: float
    then_s: float

    @property
    def kills(self) -> bool:
        """It is a SIGKILL."""
        return self.what in (SERVICE, ENGINE, BROKER)


def make_schedule(rng: random.Random, *, kills: int, processes: Sequence[str], proxies: Sequence[str]) -> list[Fault]:
    """Every process once, in some order, then whatever comes; connections break in between."""
    first = rng.sample(list(processes), len(processes))
    faults = list[Fault]()
    done = 0
    while done < kills:
        what = rng.choices((SERVICE, ENGINE, BROKER, *CONNECTIONS), (10, 8, 1.5, 3, 2, 2))[0]
        target = ""
        if what == SERVICE:
            target = first.pop() if first else rng.choice(list(processes))
        elif what in CONNECTIONS:
            target = rng.choice(list(proxies))
        faults.append(Fault(what, target, rng.random(), rng.uniform(0.0, 2.5), rng.uniform(0.1, 1.2)))
        done += faults[-1].kills
    return faults


async def break_things(house: ChaosHouse, faults: Sequence[Fault], tell: Callable[[Fault], None]) -> int:
    """All of them in their order; the answer is how many processes were killed."""
    proxies: dict[str, FaultProxy | None] = {"bus": house.bus, "http": house.http, "database": house.database}
    children = {child.name: child for child in house.children}
    kills = 0
    for fault in faults:
        tell(fault)
        proxy = proxies.get(fault.target)
        if fault.what == SERVICE:
            kills += await house.kill_service(children[fault.target], back_after_s=fault.lasts_s)
        elif fault.what == ENGINE:
            kills += house.kill_engine(fault.place)
        elif fault.what == BROKER:
            await house.kill_broker(back_after_s=fault.lasts_s / 2)
            kills += 1
        elif proxy is not None and fault.what == "cut":
            proxy.cut(max(0.2, fault.place))
        elif proxy is not None and fault.what == "stall":
            proxy.stall(max(0.2, fault.place), fault.lasts_s)
        elif proxy is not None:
            proxy.delay(max(0.2, fault.place), fault.lasts_s, each_s=0.05)
        await asyncio.sleep(fault.then_s)
    return kills
