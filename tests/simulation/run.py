"""One run: a house drawn from a seed, its faults, its people; then quiet, and what must hold at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from finery_contracts.prices import PackageOffer
from finery_contracts.tasks import NotifyChoice
from tests.simulation.deployments import Deployer
from tests.simulation.domains import Domains, real
from tests.simulation.listeners import Endpoint, Notifier, Subscription
from tests.simulation.machinery import Bus, Crashed, Process
from tests.simulation.meter import FLAVOUR, Meter
from tests.simulation.rules import rests
from tests.simulation.studio import Asked, Studio
from tests.simulation.workers import Work, Worker
from tests.simulation.world import START, Violation, World

STUCK_S = 600.0
MOST_STEPS = 60_000


@dataclass(frozen=True)
class Result:
    """What came of a seed."""

    seed: int
    digest: str
    violation: str | None
    steps: int
    lines: list[str]


def simulate(seed: int, domains: Domains | None = None, *, keep: bool = False) -> Result:
    """Run a seed; the same seed gives the same digest, always."""
    house = House(seed, domains or real(), keep=keep)
    violation = None
    try:
        house.run()
    except Violation as found:
        violation = str(found)
    except Exception as fault:  # a domain that falls over is as wrong as one that lies
        violation = f"{type(fault).__name__}: {fault}"
    world = house.world
    if violation is not None:
        world.trace(f"VIOLATION {violation}")
    return Result(seed, world.digest, violation, world.steps, world.lines)


class House:
    """All of it."""

    def __init__(self, seed: int, domains: Domains, *, keep: bool) -> None:
        self.domains = domains
        self.world = World(seed, faults_s=60 + seed % 60, keep=keep)
        self.bus = Bus(self.world)
        self.studio = Studio(self.world, self.bus, domains)
        charges = self.studio.rules.charges
        self.meter = Meter(self.world, self.bus, domains, charges)
        self.notifier = Notifier(self.world, self.bus, domains)
        self.deployer = Deployer(self.world, self.bus, domains, charges)
        self.works: dict[str, Work] = {}
        rng = self.world.rng
        self.workers = [
            Worker(self.world, self.bus, self.studio, f"w{number}", self.works) for number in range(rng.randint(1, 3))
        ]
        self._subscribe()
        self._sell()
        self._ask_for_tasks()
        if rng.random() < 0.4:
            self._deploy()
        self.world.after(self.world.between(1, 6), self._trouble)

    @property
    def processes(self) -> list[Process]:
        """All that have a disk."""
        return [self.studio.process, self.meter.process, self.notifier.process, self.deployer.process]

    def run(self) -> None:
        """Until everything rests and every delivery has come to its end."""
        world = self.world
        self._check_rounding()
        give_up_us = world.quiet_us + STUCK_S * 1e6
        while not self._settled():
            for _ in range(20):
                if not world.step():
                    break
            if world.us > give_up_us or world.steps > MOST_STEPS:
                raise Violation(f"nothing moves: {self._what_is_open()}")
        self.studio.looks = False
        for worker in self.workers:
            worker.working = False
        while world.step():
            if world.steps > MOST_STEPS:
                raise Violation("it does not come to an end")
        self._judge_the_end()

    # --- the house ----------------------------------------------------------------------------------------------

    def _ask_for_tasks(self) -> None:
        rng = self.world.rng
        for number in range(rng.randint(2, 4)):
            task_id = f"task_{number}"
            limit_s = rng.choice((None, rng.randint(4, 20)))
            self.works[task_id] = Work(
                steps=rng.randint(4, 50) if limit_s is None else rng.randint(10, 110),
                mistake=rng.random() < 0.12, hangs=rng.random() < 0.12, crashes=rng.choice((0, 0, 0, 1, 2, 5)),
            )  # fmt: skip
            needs = (f"task_{rng.randrange(number)}",) if number and rng.random() < 0.2 else ()
            asked = Asked(
                task_id, rng.choice(("plain", "packed")), rng.choice((10, 50, 50, 90)),
                auto_stop_s=limit_s, on_hang=rng.choice(("tell", "retry")),
                instances=rng.choice((1, 1, 2, 7)), pool=rng.choice(("public", "public", "own")), needs=needs,
                notify=rng.choice((None, NotifyChoice(topic="mine"), NotifyChoice(topic="mine", events=["succeeded"]))),
            )  # fmt: skip
            self._insist(self.world.between(0, 25), self.studio.process, lambda asked=asked: self.studio.submit(asked))
            self._plan_wishes(task_id)

    def _plan_wishes(self, task_id: str) -> None:
        rng = self.world.rng
        wishes: list[str] = []
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
            wishes.append(rng.choice(("pause", "pause", "resume", "resume", "terminate", "delete", "budget")))
        for wish in wishes:
            self._wish_at(self.world.between(1, 90), task_id, wish)
            if wish == "pause" and rng.random() < 0.7:
                self._wish_at(self.world.between(30, 120), task_id, "resume")
        if rng.random() < 0.3:
            self._wish_at(self.world.between(120, 200), task_id, rng.choice(("delete", "terminate", "pause")))

    def _wish_at(self, at_s: float, task_id: str, wish: str) -> None:
        self._insist(at_s, self.studio.process, lambda: self.studio.wish(task_id, wish))

    def _subscribe(self) -> None:
        rng = self.world.rng
        filters = ((), ("task.succeeded",), ("task.*",), ("succeeded", "failed"), ("attempt_ended", "deployment.*"))
        for number in range(rng.randint(1, 3)):
            point = Endpoint(
                rng.choice((0, 0, 1, 2, 8)), rng.choice((500, 302, 404, 429, None)),
                rng.choice((None, None, 20.0, 400.0, 10.0**6)), rng.random() < 0.12, rng.random() < 0.08,
            )  # fmt: skip
            self.notifier.subscribe(
                Subscription(f"sub_{number}", rng.choice(("all", "mine")), rng.choice(filters)), point
            )
            if rng.random() < 0.8:
                at_s = rng.choice((0.0, self.world.between(0, 60)))
                name = f"sub_{number}"
                self._insist(at_s, self.notifier.process, lambda name=name: self.notifier.confirm(name))

    def _sell(self) -> None:
        """Packages whose periods end in the middle of the run, so that intervals are cut."""
        rng = self.world.rng
        for number in range(rng.choice((0, 1, 2, 3))):
            reset = rng.choice(("none", "day", "week"))
            days = rng.choice((1, 2, 8))
            offer = PackageOffer(
                name=f"offer-{number}", flavour=FLAVOUR, hours=Decimal(rng.randint(1, 12)) / 1000, valid_days=days,
                reset=reset, price=Decimal(rng.randint(1, 99)),
            )  # fmt: skip
            begins = START + timedelta(microseconds=rng.randrange(100 * 10**6))
            if rng.random() < 0.6:  # bought before, so that it ends or begins anew meanwhile
                begins -= timedelta(days=rng.choice((days, rng.randint(0, days))))
            at_s = self.world.between(0, 90)
            name = f"pkg_{number}"

            def buy(offer: PackageOffer = offer, begins: Any = begins, name: str = name) -> bool:
                if name not in self.meter.process.disk.get("package", {}):
                    self.meter.buy("packed", offer, begins, name)
                return True

            self._insist(at_s, self.meter.process, buy)

    def _deploy(self) -> None:
        rng = self.world.rng
        project, limit_s = rng.choice(("plain", "packed")), rng.choice((None, 60))
        self._insist(self.world.between(0, 10), self.deployer.process, lambda: self.deployer.create(project, limit_s))
        for _ in range(rng.randint(0, 3)):
            wish = rng.choice(("stop", "start", "delete", "stop"))
            at_s = self.world.between(12, 80)
            for moment_s in (at_s, at_s + 0.1)[: rng.randint(1, 2)]:
                self._insist(moment_s, self.deployer.process, lambda wish=wish: self.deployer.wish(wish))
        self._insist(self.world.between(130, 160), self.deployer.process, lambda: self.deployer.wish("stop"))
        if rng.random() < 0.5:
            self._insist(self.world.between(175, 180), self.deployer.process, lambda: self.deployer.wish("delete"))

    def _insist(self, delay_s: float, process: Process, do: Callable[[], bool]) -> None:
        """A person who asks until there is an answer."""

        def ask() -> None:
            try:
                if do():
                    return
            except Crashed:
                pass
            self.world.after(1.5, ask)

        self.world.after(delay_s, ask)

    def _trouble(self) -> None:
        """What strikes from outside."""
        if not self.world.faulty:
            return
        rng = self.world.rng
        worker = rng.choice(self.workers)
        kind = rng.choice(("outage", "process", "crash", "freeze", "cut", "leave", "none"))
        if kind == "outage":
            self.bus.outage(self.world.between(0.5, 12))
        elif kind == "process":
            rng.choice(self.processes).crash("out of the blue")
        elif kind == "crash":
            worker.crash()
        elif kind == "freeze":
            worker.freeze()
        elif kind == "cut":
            worker.cut_off()
        elif kind == "leave":
            worker.leave()
        self.world.after(self.world.between(4, 25), self._trouble)

    # --- the end ------------------------------------------------------------------------------------------------

    def _settled(self) -> bool:
        if self.world.us < self.world.quiet_us + 200 * 10**6 or self.bus.on_the_way:
            return False
        return not self._what_is_open()

    def _what_is_open(self) -> list[str]:
        stories = self.studio.rules.stories
        paused = any(story.paused for story in stories.values())
        still = [
            f"{name} is {story.state}"
            for name, story in stories.items()
            if not rests(story) and not (paused and story.state == "created")
        ]
        still += [f"{len(self.works) - len(stories)} tasks were never taken"] if len(stories) < len(self.works) else []
        still += [f"{p.name} has not published" for p in self.processes if p.published < len(p.outbox)]
        still += [f"{worker.host} works" for worker in self.workers if worker.attempt is not None]
        return still

    def _judge_the_end(self) -> None:
        rules = self.studio.rules
        told = [event for process in self.processes for event in process.outbox]
        ends = {event.id for event in told if type(event).FACT in ("attempt_ended", "instance_ended")}
        if ends != set(self.meter.applied):
            raise Violation(f"the meter never heard {sorted(ends - set(self.meter.applied))}")
        for name, story in rules.stories.items():
            said = [event.nounversion for event in self.studio.process.outbox if event.noun_id == name]
            if said != list(range(1, len(said) + 1)):
                raise Violation(f"{name}: versions {said} were said")
            if any(one.reason is None for one in story.tries):
                raise Violation(f"{name}: an attempt never ended")
        self.meter.settle_accounts()
        heard = [event for event in told if type(event).NOUN in ("task", "deployment", "package")]
        self.notifier.nobody_was_forgotten(heard)

    def _check_rounding(self) -> None:
        """The one rounding of an amount against Python's exact fractions, ties among them."""
        rng, half_even = self.world.rng, self.domains.ledger.half_even
        for _ in range(5):
            below = rng.choice((2, 4, 3600, rng.randint(1, 10**6)))
            above = rng.randint(0, 10**9) * (below // 2 or 1)
            if half_even(above, below) != round(Fraction(above, below)):
                raise Violation(f"half_even({above}, {below}) = {half_even(above, below)}")
