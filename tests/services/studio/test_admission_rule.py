"""The rule of admission, without any database: whose turn it is, what place a task has, why it waits."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from finery_contracts.jobs import TaskKind
from finery_studio.pools import admission
from finery_studio.pools.admission import Offer, Queue, Situation, Tenant, Turn

TUNE = Offer(kinds={"tune"}, flavours={"cpu"})


def queue(project: str, waiting: int = 1, *, running: int = 0, flavour: str = "cpu", pool: str = "p") -> Queue:
    return Queue(pool, flavour, "tune", project, waiting, running)


def situation(*queues: Queue, **said: object) -> Situation:
    told: dict[str, object] = {"tenants": {}, "costs": {"cpu": 1, "big": 4}, "room": {"cpu": None, "big": None}}
    return Situation(pool="p", queues=queues, **{**told, **said})


def projects(turn: Turn | None) -> set[str]:
    return set() if turn is None else {q.project for q in turn.queues}


def test_the_project_with_the_fewest_running_slots_goes_first() -> None:
    assert projects(admission.choose(situation(queue("a", running=2), queue("b", running=1)), TUNE)) == {"b"}


def test_running_slots_are_weighed_by_the_share() -> None:
    heavy = {"a": Tenant(share=3)}
    level = admission.choose(situation(queue("a", running=3), queue("b", running=1), tenants=heavy), TUNE)
    assert projects(level) == {"a", "b"}
    assert projects(admission.choose(situation(queue("a", running=2), queue("b", running=1), tenants=heavy), TUNE)) == {
        "a"
    }


def test_of_projects_that_are_level_the_one_that_was_served_least_goes_first() -> None:
    served = {"a": Tenant(served=7), "b": Tenant(served=5)}
    assert projects(admission.choose(situation(queue("a"), queue("b"), tenants=served), TUNE)) == {"b"}


def test_a_project_that_was_away_has_no_claim_to_the_past() -> None:
    served = {"a": Tenant(served=1000), "b": Tenant(served=0)}
    turn = admission.choose(situation(queue("a"), queue("b"), tenants=served, clock=1000), TUNE)
    assert projects(turn) == {"a", "b"}


def test_slots_of_other_pools_weigh_nothing_but_count_for_the_quota() -> None:
    elsewhere = queue("a", 0, running=5, pool="q")
    assert projects(admission.choose(situation(queue("a"), queue("b", running=1), elsewhere), TUNE)) == {"a"}
    bound = {"a": Tenant(running_slots=5)}
    assert projects(admission.choose(situation(queue("a"), elsewhere, tenants=bound), TUNE)) == set()


@pytest.mark.parametrize(
    "said",
    [
        {"tenants": {"a": Tenant(running_slots=1)}},
        {"tenants": {"a": Tenant(held="the project's budget is used up")}},
        {"room": {"cpu": 1}},
        {"room": {}},
    ],
    ids=["quota", "held", "no slot", "no such flavour"],
)
def test_what_may_not_run_is_passed_over(said: dict[str, object]) -> None:
    assert admission.choose(situation(queue("a", running=1), **said), TUNE) is None


def test_a_flavour_takes_its_slots_of_pool_and_quota() -> None:
    big = Offer({"tune"}, {"big"})
    assert admission.choose(situation(queue("a", flavour="big"), room={"big": 3}), big) is None
    assert admission.choose(situation(queue("a", flavour="big"), room={"big": 4}), big) is not None
    assert admission.choose(situation(queue("a", flavour="big"), tenants={"a": Tenant(running_slots=3)}), big) is None


def test_a_worker_gets_what_it_offers_and_nothing_that_it_never_could_take() -> None:
    both = situation(queue("a", flavour="big"), queue("b"))
    assert projects(admission.choose(both, Offer({"tune"}, {"cpu", "big"}, 1, 2))) == {"b"}
    assert projects(admission.choose(both, Offer({"tune"}, {"cpu", "big"}, 1, 4))) == {"a", "b"}
    assert admission.choose(both, Offer({"evaluate"}, {"cpu", "big"})) is None
    assert not admission.fits(both, "big", Offer({"tune"}, {"big"}, 3, 4))
    assert admission.fits(both, "big", Offer({"tune"}, {"big"}, 4, 4))


# --- nobody starves ---------------------------------------------------------------------------------------------------


@dataclass
class House:
    """A pool in memory that is served by the rule."""

    queues: dict[str, list[admission.Rank]]
    tenants: dict[str, Tenant] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    clock: int = 0

    def now(self) -> Situation:
        names = {*self.queues, *self.running}
        counts = [queue(name, len(self.queues.get(name, ())), running=self.running[name]) for name in sorted(names)]
        return situation(*counts, tenants=dict(self.tenants), clock=self.clock)

    def claim(self) -> tuple[str, admission.Rank] | None:
        now = self.now()
        turn = admission.choose(now, TUNE)
        if turn is None:
            return None
        best = min(turn.queues, key=lambda q: min(self.queues[q.project]))
        rank = min(self.queues[best.project])
        self.queues[best.project].remove(rank)
        self.running[best.project] += 1
        self.clock = turn.clock
        self.tenants[best.project] = now.tenant(best.project)._replace(served=turn.served(now, best))
        return best.project, rank


def served_one_by_one(house: House, slots: int = 1) -> Iterator[str]:
    """Projects in the order in which they are served when at most ``slots`` run and the oldest ends first."""
    order: list[str] = []
    while (taken := house.claim()) is not None:
        yield taken[0]
        order.append(taken[0])
        if len(order) >= slots:
            house.running[order.pop(0)] -= 1


def ranks(number: int, *, priority: int = 50, first: int = 0) -> list[admission.Rank]:
    return [(-priority, f"task_{n:06}") for n in range(first, first + number)]


def test_with_a_single_slot_an_urgent_project_with_many_tasks_does_not_keep_the_others_out() -> None:
    house = House({"greedy": ranks(1000, priority=100), **{f"p{n}": ranks(3, first=5000) for n in range(9)}})
    order = list(served_one_by_one(house))
    assert all(set(order[n : n + 10]) == set(house.queues) for n in (0, 10, 20))


def test_a_project_that_submits_one_urgent_task_after_the_other_does_not_keep_the_others_out() -> None:
    house = House({"sly": ranks(1, priority=100), "a": ranks(50), "b": ranks(50, first=100)})
    order: list[str] = []
    for project in served_one_by_one(house):
        order.append(project)
        if project == "sly":
            house.queues["sly"] = ranks(1, priority=100, first=len(order))
        if len(order) == 60:
            break
    assert min(Counter(order).values()) >= 18


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_the_share_decides_how_often_a_project_is_served(slots: int) -> None:
    house = House({"a": ranks(600), "b": ranks(600)}, {"a": Tenant(share=3), "b": Tenant(share=1)})
    order = list(itertools.islice(served_one_by_one(house, slots), 400))
    assert Counter(order)["a"] == pytest.approx(300, abs=slots + 1)


def test_a_newcomer_is_served_at_once_and_not_for_all_it_missed() -> None:
    house = House({"old": ranks(500)})
    for _ in itertools.islice(served_one_by_one(house), 300):
        pass
    house.queues["new"] = ranks(100, first=9000)
    house.running.clear()
    order = list(itertools.islice(served_one_by_one(house), 40))
    assert Counter(order) == {"old": 20, "new": 20}


# --- place and reason -------------------------------------------------------------------------------------------------


def places(house: House) -> dict[admission.Rank, int]:
    """What every waiting task is told."""
    now, found = house.now(), dict[admission.Rank, int]()
    for name, waiting in house.queues.items():
        for ahead, rank in enumerate(sorted(waiting)):
            level = admission.overtakers(now, queue(name), ahead)
            if level is not None:
                others = [sorted(house.queues[project])[nth] for project, nth in level.ties]
                found[rank] = admission.place(level, rank, others)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_places_are_the_order_in_which_tasks_are_then_taken(seed: int) -> None:
    dice = random.Random(seed)
    names = [f"p{n}" for n in range(dice.randint(1, 6))]
    ids = iter(dice.sample(range(1000), 200))
    house = House(
        {name: [(-dice.choice([0, 50, 99]), f"t{next(ids):04}") for _ in range(dice.randint(1, 9))] for name in names}
    )
    house.running = Counter({name: dice.randint(0, 3) for name in names})
    house.tenants = {
        name: Tenant(dice.randint(1, 4), dice.choice([4, 6, 1000]), None, dice.randint(0, 3) * admission.SERVED)
        for name in names
    }
    house.clock = dice.randint(0, 2) * admission.SERVED
    told = places(house)

    taken = [rank for _, rank in iter(house.claim, None)]

    assert [told[rank] for rank in taken] == list(range(1, len(taken) + 1))
    assert sorted(told.values()) == list(range(1, len(told) + 1)), "what a quota keeps waiting has a place, too"


def test_a_held_project_has_no_place_and_keeps_none_from_others() -> None:
    now = situation(queue("a", 5), queue("b"), tenants={"a": Tenant(held="the budget is used up")})
    assert admission.overtakers(now, queue("a"), 0) is None
    assert admission.overtakers(now, queue("b"), 0) == admission.Level(0, ())


def test_kinds_that_the_same_workers_do_stand_in_one_queue() -> None:
    assert admission.rivals(TaskKind.IMPORT) == admission.rivals("validate") == {"import", "validate", "merge"}
    assert admission.rivals("tune") == {"tune"}


@pytest.mark.parametrize(
    ("said", "place", "words"),
    [
        ({}, 1, ["waiting for a free worker of pool fast", "place 1"]),
        ({}, 7, ["place 7 in the queue of pool fast"]),
        ({"tenants": {"a": Tenant(held="budget used up")}}, None, ["budget used up"]),
        ({"tenants": {"a": Tenant(running_slots=2)}}, 3, ["quota of your project reached: 2 of 2 slots", "place 3"]),
        ({"room": {"cpu": 2}}, 3, ["no free slot in pool fast", "2 of 2 slots for cpu", "place 3"]),
    ],
)
def test_a_waiting_task_says_why(said: Mapping[str, object], place: int | None, words: list[str]) -> None:
    reason = admission.why(situation(queue("a", 9, running=2), name="fast", **said), queue("a"), place)
    assert all(word in reason for word in words), reason
