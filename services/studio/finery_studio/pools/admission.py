"""Whose turn it is, what place a waiting task has, and why it waits. Pure: counts in, a choice out.

The rule: of the projects that may run something now, the one with the fewest running slots for its share goes first;
among those that are level, the one that was served least for its share; then priority, then age. Being served is what
keeps a project with urgent tasks from taking the only slot again and again (start-time fair queueing, Goyal 1996).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from finery_contracts.jobs import TaskKind

SERVED = 10**9
"""What one slot adds to what a project with share 1 was served; with share 2 it adds half of it, and so on."""
TOGETHER = (frozenset({TaskKind.IMPORT, TaskKind.VALIDATE, TaskKind.MERGE}),)
"""Kinds that the same workers do, and that therefore stand in one queue."""

Rank = tuple[int, str]
"""Orders the tasks of one project: minus the priority, then the id, which sorts by age."""
Key = tuple[bool, int, int]


class Queue(NamedTuple):
    """How many tasks of one project, kind and flavour wait and run in a pool."""

    pool: str
    flavour: str
    kind: str
    project: str
    waiting: int = 0
    running: int = 0


class Tenant(NamedTuple):
    """What is settled for a project. ``served``: what it was served in this pool, for its share."""

    share: int = 1
    running_slots: int = 1_000_000
    held: str | None = None
    served: int = 0


@dataclass(frozen=True)
class Situation:
    """Everything a decision about a pool looks at. ``clock``: what the project served least had been served by then."""

    pool: str
    queues: Sequence[Queue]
    tenants: Mapping[str, Tenant]
    costs: Mapping[str, int]
    room: Mapping[str, int | None]
    clock: int = 0
    name: str = ""
    default: Tenant = field(default_factory=Tenant)

    def tenant(self, project: str) -> Tenant:
        """What is settled for this project."""
        return self.tenants.get(project, self.default)

    def cost(self, flavour: str) -> int:
        """Slots that one task takes."""
        return self.costs.get(flavour, 1)

    def used(self, flavour: str) -> int:
        """Slots of a flavour that are taken in this pool."""
        return sum(q.running for q in self.queues if q.pool == self.pool and q.flavour == flavour) * self.cost(flavour)

    def is_full(self, flavour: str) -> bool:
        """True when one more task of this flavour has no slot in this pool."""
        room = self.room.get(flavour, 0)
        return room is not None and self.used(flavour) + self.cost(flavour) > room

    def slots_of(self, project: str, *, everywhere: bool = False) -> int:
        """Slots that a project's tasks take, in this pool or everywhere."""
        mine = (q for q in self.queues if q.project == project and (everywhere or q.pool == self.pool))
        return sum(q.running * self.cost(q.flavour) for q in mine)


@dataclass(frozen=True)
class Offer:
    """What a worker can take now, and what it could take if it were idle; None: it does not say."""

    kinds: Collection[str]
    flavours: Collection[str]
    free_slots: int | None = None
    slots: int | None = None


@dataclass(frozen=True)
class Turn:
    """The queues of the projects whose turn it is, all level; the best of their heads is to be taken."""

    queues: tuple[Queue, ...]
    start: int
    clock: int

    def served(self, situation: Situation, taken: Queue) -> int:
        """What the project was served once this one is counted."""
        return self.start + _step(situation, taken.project, taken.flavour)


@dataclass(frozen=True)
class Level:
    """Tasks that go before another one in any case, and those that are level with it: (project, n-th of its tasks)."""

    before: int
    ties: tuple[tuple[str, int], ...]


def choose(situation: Situation, offer: Offer) -> Turn | None:
    """Whose turn it is; None when nothing can be taken."""
    queues = [q for q in situation.queues if _is_offered(situation, q, offer)]
    in_pool, everywhere = _taken_slots(situation)
    full = {flavour for flavour in offer.flavours if situation.is_full(flavour)}
    open_queues = [q for q in queues if q.flavour not in full and _may_run(situation, q, everywhere.get(q.project, 0))]
    if not open_queues:
        return None
    starts = {q.project: max(situation.clock, situation.tenant(q.project).served) for q in open_queues}
    loads = {p: _load(in_pool.get(p, 0), situation.tenant(p).share) for p in starts}
    first = min((loads[project], start) for project, start in starts.items())
    level = tuple(q for q in open_queues if (loads[q.project], starts[q.project]) == first)
    return Turn(level, start=first[1], clock=max(situation.clock, min(starts.values())))


def fits(situation: Situation, flavour: str, offer: Offer) -> bool:
    """False: the task whose turn it is needs more slots than are free. The worker then takes nothing smaller instead,
    so that large tasks come to their turn, too."""
    return offer.free_slots is None or situation.cost(flavour) <= offer.free_slots


def rivals(kind: str) -> frozenset[str]:
    """The kinds that stand in the same queue."""
    return next((frozenset(map(str, kinds)) for kinds in TOGETHER if kind in kinds), frozenset({str(kind)}))


def overtakers(situation: Situation, queue: Queue, ahead: int) -> Level | None:
    """Who goes before the task that has ``ahead`` others of its own project before it; None when its project is held.

    This is the order in which ``choose`` would take the tasks of the same kind and flavour if slots became free one by
    one and nothing else changed. What a quota keeps waiting comes after what may run.
    """
    if situation.tenant(queue.project).held:
        return None
    everyone = _waiting_by_project(situation, queue)
    in_pool, everywhere = _taken_slots(situation)
    cost = situation.cost(queue.flavour)

    def key(project: str, nth: int) -> Key:
        tenant = situation.tenant(project)
        blocked = everywhere.get(project, 0) + (nth + 1) * cost > tenant.running_slots
        start = max(situation.clock, tenant.served) + nth * _step(situation, project, queue.flavour)
        return blocked, _load(in_pool.get(project, 0) + nth * cost, tenant.share), start

    mine, before, ties = key(queue.project, ahead), ahead, list[tuple[str, int]]()
    for project, waiting in everyone.items():
        if project == queue.project:
            continue
        sooner = bisect_left(range(waiting), mine, key=lambda nth, p=project: key(p, nth))
        before += sooner
        if sooner < waiting and key(project, sooner) == mine:
            ties.append((project, sooner))
    return Level(before, tuple(ties))


def place(level: Level, mine: Rank, others: Iterable[Rank]) -> int:
    """The place in the queue, 1 is next. ``others``: the ranks of those that are level."""
    return 1 + level.before + sum(other < mine for other in others)


def why(situation: Situation, queue: Queue, place: int | None = None) -> str:
    """Why a task of this queue waits, in words for its owner."""
    tenant, cost = situation.tenant(queue.project), situation.cost(queue.flavour)
    if tenant.held:
        return tenant.held
    pool = situation.name or situation.pool
    where = "" if place is None else f"; place {place} in the queue"
    used = situation.slots_of(queue.project, everywhere=True)
    if used + cost > tenant.running_slots:
        needs = f", this one takes {cost}" if cost > 1 else ""
        return f"quota of your project reached: {used} of {tenant.running_slots} slots are in use{needs}{where}"
    room = situation.room.get(queue.flavour, 0)
    if room is not None and situation.is_full(queue.flavour):
        taken = f"{situation.used(queue.flavour)} of {room} slots for {queue.flavour} are taken"
        return f"no free slot in pool {pool}: {taken}{where}"
    if place is None or place == 1:
        return f"waiting for a free worker of pool {pool}{where}"
    return f"place {place} in the queue of pool {pool}"


def _is_offered(situation: Situation, queue: Queue, offer: Offer) -> bool:
    if queue.pool != situation.pool or queue.waiting <= 0:
        return False
    if queue.kind not in offer.kinds or queue.flavour not in offer.flavours:
        return False
    return offer.slots is None or situation.cost(queue.flavour) <= offer.slots


def _may_run(situation: Situation, queue: Queue, used: int) -> bool:
    tenant = situation.tenant(queue.project)
    return not tenant.held and used + situation.cost(queue.flavour) <= tenant.running_slots


def _taken_slots(situation: Situation) -> tuple[dict[str, int], dict[str, int]]:
    """Slots that each project takes: in this pool, and everywhere."""
    in_pool, everywhere = dict[str, int](), dict[str, int]()
    for queue in situation.queues:
        slots = queue.running * situation.cost(queue.flavour)
        everywhere[queue.project] = everywhere.get(queue.project, 0) + slots
        if queue.pool == situation.pool:
            in_pool[queue.project] = in_pool.get(queue.project, 0) + slots
    return in_pool, everywhere


def _waiting_by_project(situation: Situation, of: Queue) -> dict[str, int]:
    """How many of each project stand in the same queue; those of held projects do not move."""
    kinds, counted = rivals(of.kind), dict[str, int]()
    for queue in situation.queues:
        same = queue.pool == of.pool and queue.flavour == of.flavour and queue.kind in kinds
        if same and queue.waiting > 0 and not situation.tenant(queue.project).held:
            counted[queue.project] = counted.get(queue.project, 0) + queue.waiting
    return counted


def _load(slots: int, share: int) -> int:
    """Running slots for a share, in whole numbers: shares up to 1000 stay apart."""
    return slots * SERVED // share


def _step(situation: Situation, project: str, flavour: str) -> int:
    return situation.cost(flavour) * SERVED // situation.tenant(project).share
