"""Admission on a real database: who gets what, at once and in turn; counts that never drift; places that are true."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio
from admission_rig import AdmissionRig, admission_rig
from sqlmodel import col, select, update

from finery_contracts.errors import Conflict, RateLimited
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason, TaskView
from finery_contracts.work import Claim, ClaimRequest
from finery_kit.db import Transaction
from finery_studio.pools import admission, queue
from finery_studio.pools import store as pool_store
from finery_studio.pools.recount import recount
from finery_studio.tasks import store

EVALUATE, VALIDATE, IMPORT = TaskKind.EVALUATE, TaskKind.VALIDATE, TaskKind.IMPORT


@pytest_asyncio.fixture
async def rig(database_url: str) -> AsyncIterator[AdmissionRig]:
    async with admission_rig(database_url) as made:
        yield made


async def test_projects_take_turns_and_priority_decides_within_one(rig: AdmissionRig) -> None:
    slow = await rig.submit("a")
    urgent = await rig.submit("a", priority=90)
    other = await rig.submit("b", priority=1)

    taken = [claim.task_id for claim in [await rig.claim() for _ in range(3)] if claim]

    assert taken == [urgent.id, other.id, slow.id]
    assert await rig.claim() is None
    assert await rig.drift() == []


async def test_every_project_is_served_again_and_again_until_nothing_waits(rig: AdmissionRig) -> None:
    """Six projects, two slots, one of them with far more and far more urgent work."""
    await rig.offer({"cpu": 2})
    for _ in range(8):
        await rig.submit("greedy", priority=100)
    for number in range(5):
        for _ in range(2):
            await rig.submit(f"p{number:02}", priority=number)
    running, order = list[Claim](), list[str]()
    while (claim := await rig.claim()) is not None or running:
        if claim is not None:
            running.append(claim)
            order.append(claim.project)
        if claim is None or len(running) == 2:
            await rig.end(running.pop(0))

    assert len(order) == 8 + 5 * 2
    served = [order.index(project) for project in set(order)]
    assert max(served) < 6, "everybody once before anybody twice"
    assert Counter(order[:12]) == dict.fromkeys(set(order), 2)
    assert await rig.drift() == []


async def test_claims_at_once_never_share_a_task_nor_exceed_slots_or_quota(rig: AdmissionRig) -> None:
    await rig.offer({"cpu": 7})
    await rig.quota("a", running_slots=3)
    for project in ("a", "b"):
        await asyncio.gather(*(rig.submit(project) for _ in range(8)))

    claims = [claim for claim in await asyncio.gather(*(rig.claim() for _ in range(16))) if claim]

    assert len({claim.task_id for claim in claims}) == len(claims) == 7
    assert Counter(claim.project for claim in claims) == {"a": 3, "b": 4}
    assert await rig.claim() is None
    await rig.end(claims[0])
    assert await rig.claim() is not None
    assert await rig.drift() == []


async def test_the_same_request_at_once_gets_one_task(rig: AdmissionRig) -> None:
    for _ in range(4):
        await rig.submit()
    answers = await asyncio.gather(*(rig.claim(request_id="same") for _ in range(4)), return_exceptions=True)
    claimed = {answer.task_id for answer in answers if isinstance(answer, Claim)}
    again = await rig.claim(request_id="same")
    assert again is not None
    assert claimed <= {again.task_id}
    assert len([task for task in await _all(rig) if task.attempts]) == 1
    assert await rig.drift() == []


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_task_in_other_hands_is_passed_over_and_nothing_else_is(rig: AdmissionRig) -> None:
    held, free = await rig.submit("a", priority=99), await rig.submit("a")
    alone = await rig.submit("b", priority=1)
    locked, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(tx: object) -> None:
        store.held(tx.session, held.id)
        loop.call_soon_threadsafe(locked.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    holding = asyncio.create_task(rig.write(hold))
    await locked.wait()
    taken = {claim.task_id for claim in [await rig.claim(), await rig.claim()] if claim}
    nothing = await rig.claim()
    release.set()
    await holding

    assert taken == {free.id, alone.id}
    assert nothing is None
    last = await rig.claim()
    assert last is not None
    assert last.task_id == held.id


async def test_a_worker_gets_only_what_its_pool_and_flavours_are(rig: AdmissionRig) -> None:
    own = await rig.pool("a", flavours={"cpu": None, "cpu-large": None})
    inside, large = await rig.submit("a", pool="own"), await rig.submit("a", pool=own.id, flavour="cpu-large")
    outside = await rig.submit("a")
    assert (inside.pool, outside.pool) == (own.id, "public")

    assert (await rig.claim()).task_id == outside.id
    assert (await rig.claim(pool=own.id)).task_id == inside.id
    assert await rig.claim(pool=own.id) is None
    assert await rig.claim(pool=own.id, flavours=["cpu-large"], free_slots=3, slots=3) is None
    assert await rig.claim(pool=own.id, flavours=["cpu-large"], free_slots=3, slots=4) is None
    claim = await rig.claim(pool=own.id, flavours=["cpu-large"], free_slots=4, slots=4)
    assert claim is not None
    assert (claim.task_id, claim.slots) == (large.id, 4)


async def test_a_worker_waits_for_room_for_a_large_task_instead_of_serving_small_ones_for_ever(
    rig: AdmissionRig,
) -> None:
    await rig.offer({"cpu": None, "cpu-large": None})
    await rig.submit("small")
    large = await rig.submit("large", flavour="cpu-large")
    await rig.submit("small")
    both = {"flavours": ["cpu", "cpu-large"], "slots": 4}
    first = await rig.claim(free_slots=4, **both)
    assert first is not None
    assert await rig.claim(free_slots=3, **both) is None
    await rig.end(first)
    assert (await rig.claim(free_slots=4, **both)).task_id == large.id


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_counts_never_drift_whatever_happens_to_tasks(rig: AdmissionRig, seed: int) -> None:
    dice = random.Random(seed)
    await rig.offer({"cpu": 6, "cpu-large": None})
    claims = list[Claim]()

    async def one_move() -> None:
        tasks = await _all(rig)
        task = dice.choice(tasks) if tasks else None
        move = dice.choice(["submit", "submit", "claim", "claim", "end", "lose", "stop", "pause", "resume", "delete"])
        if move == "submit" or task is None:
            needs = (task.id,) if task and not task.state.ended and dice.random() < 0.3 else ()
            kind, flavour = dice.choice([EVALUATE, VALIDATE]), dice.choice(["cpu", "cpu-large"])
            await rig.submit(dice.choice("abc"), kind, needs=needs, flavour=flavour, priority=dice.randint(0, 100))
        elif move == "claim":
            claim = await rig.claim(EVALUATE, VALIDATE, flavours=["cpu", "cpu-large"])
            claims.extend([claim] if claim else [])
        elif move == "end" and claims:
            await rig.end(claims.pop(dice.randrange(len(claims))), dice.choice(list(EndReason)))
        elif move == "lose":
            await rig.write(lambda tx: rig.tasks.lose(tx, task.id, len(task.attempts)))
        else:
            wishes = {"stop": rig.tasks.terminate, "pause": rig.tasks.pause, "resume": rig.tasks.resume}
            wish = wishes.get(move, rig.tasks.delete)
            try:
                await rig.write(lambda tx: wish(tx, task.project, task.id))
            except Conflict:
                return

    for step in range(80):
        await one_move()
        if step % 10 == 0:
            assert await rig.drift() == []

    assert await rig.drift() == []
    assert await rig.write(recount) == 0


async def test_a_start_mends_counts_and_rows_of_an_older_version(rig: AdmissionRig) -> None:
    await rig.submit("a")
    await rig.submit("b")
    assert await rig.claim() is not None

    def spoil(tx: object) -> None:
        tx.session.exec(update(store.TaskRow).values(counted=None))
        tx.session.exec(update(pool_store.CountRow).values(waiting=9, running=0))

    await rig.write(spoil)
    assert await rig.drift() != []
    assert await rig.write(recount) == 2
    assert await rig.drift() == []
    assert await rig.claim() is not None
    assert await rig.claim() is None


async def test_two_transactions_that_change_the_same_counts_in_other_order_both_end(rig: AdmissionRig) -> None:
    async def both(kinds: tuple[TaskKind, TaskKind]) -> None:
        from admission_rig import SPECS, actor

        from finery_studio.tasks.submit import NewTask, submit

        await rig.write(lambda tx: [submit(tx, NewTask(kind, "t", {}), actor("a"), SPECS) for kind in kinds])

    await asyncio.gather(*(both(kinds) for _ in range(10) for kinds in ((EVALUATE, VALIDATE), (VALIDATE, EVALUATE))))
    assert await rig.drift() == []


# --- quotas and holds -------------------------------------------------------------------------------------------------


async def test_no_more_may_wait_than_the_quota_says_however_many_submit_at_once(rig: AdmissionRig) -> None:
    await rig.quota("a", waiting_tasks=5)
    answers = await asyncio.gather(*(rig.submit("a") for _ in range(12)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, RateLimited)]
    assert (len(answers) - len(refused), {fault.error_code for fault in refused}) == (5, {"quota_reached"})
    await rig.submit("b")
    assert await rig.claim() is not None
    await rig.quota("a", waiting_tasks=50)
    assert (await rig.submit("a")).state == "queued"


async def test_what_waits_for_another_task_counts_as_waiting(rig: AdmissionRig) -> None:
    await rig.quota("a", waiting_tasks=2)
    first = await rig.submit("a")
    await rig.submit("a", needs=(first.id,))
    with pytest.raises(RateLimited):
        await rig.submit("a")


async def test_nothing_of_a_held_project_begins_until_every_cause_is_over(rig: AdmissionRig) -> None:
    task = await rig.submit("a")
    for cause in ("budget_1", "budget_2"):
        await rig.write(lambda tx, c=cause: pool_store.hold(tx, "a", cause=c, reason="budget used up"))
    assert await rig.claim() is None
    seen = await rig.seen(task)
    assert (seen.why_waiting, seen.place) == ("budget used up", None)
    await rig.write(lambda tx: pool_store.release(tx, "a", cause="budget_1"))
    assert await rig.claim() is None
    await rig.write(lambda tx: pool_store.release(tx, "a", cause="budget_2"))
    assert await rig.claim() is not None


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_what_is_claimed_while_its_project_is_held_is_seen_by_who_holds_it(rig: AdmissionRig) -> None:
    task = await rig.submit("a")
    chosen, go_on = asyncio.Event(), asyncio.Event()
    loop, next_task = asyncio.get_running_loop(), rig.tasks.choose

    def slowly(tx: Transaction, request: ClaimRequest) -> store.TaskRow | None:
        row = next_task(tx, request)
        loop.call_soon_threadsafe(chosen.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return row

    def hold(tx: Transaction) -> list[str]:
        pool_store.hold(tx, "a", cause="budget_1", reason="budget used up")
        return store.live_ids(tx.session, "a")

    rig.tasks.choose = slowly
    claiming = asyncio.create_task(rig.claim())
    await chosen.wait()
    holding = asyncio.create_task(rig.write(hold))
    await asyncio.wait({holding}, timeout=0.5)
    go_on.set()

    assert await claiming is not None
    assert await holding == [task.id]


# --- places and reasons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_places_are_the_order_in_which_tasks_are_then_claimed(rig: AdmissionRig, seed: int) -> None:
    dice = random.Random(seed)
    await rig.quota("b", share=2)
    for _ in range(12):
        await rig.submit(dice.choice("abc"), dice.choice([IMPORT, VALIDATE]), priority=dice.choice([0, 50, 100]))
    for _ in range(4):
        await rig.claim(IMPORT, VALIDATE)
    waiting = [task for task in await _all(rig) if not task.attempts]
    places = {task.id: (await rig.seen(task)).place for task in waiting}

    taken = [claim.task_id for claim in [await rig.claim(IMPORT, VALIDATE) for _ in waiting] if claim]

    assert [places[task_id] for task_id in taken] == list(range(1, len(waiting) + 1))


async def test_a_list_tells_the_same_places_and_reasons_as_single_reads(rig: AdmissionRig) -> None:
    await rig.offer({"cpu": 1})
    for project in "abab":
        await rig.submit(project)
    await rig.claim()
    tasks = await _all(rig)
    told = await rig.database.read(lambda s: queue.told(s, tasks))
    assert told == [await rig.seen(task) for task in tasks]
    assert sorted(task.place for task in told if task.place) == [1, 2, 3]
    assert {task.why_waiting for task in told if task.place == 2} == {
        "no free slot in pool public: 1 of 1 slots for cpu are taken; place 2 in the queue"
    }


async def test_every_state_of_waiting_says_its_own_reason(rig: AdmissionRig) -> None:
    await rig.quota("a", running_slots=1)
    running, waits = await rig.submit("a"), await rig.submit("a")
    needing = await rig.submit("a", needs=(waits.id,))
    paused = await rig.submit("a")
    claim = await rig.claim()
    await rig.write(lambda tx: rig.tasks.pause(tx, "a", paused.id))

    reasons = [(await rig.seen(task)).why_waiting for task in (running, waits, needing, paused)]

    assert reasons[0] is None
    assert reasons[1] == "quota of your project reached: 1 of 1 slots are in use; place 1 in the queue"
    assert reasons[2] == f"waiting for {waits.id}"
    assert (reasons[3] or "").startswith("paused")
    assert claim is not None
    await rig.end(claim, EndReason.CRASHED)
    again = await rig.seen(running)
    assert again.why_waiting is not None
    assert again.why_waiting.startswith("attempt 1 ended (crashed); ")
    assert again.place == 1


async def test_the_decision_looks_at_counts_and_at_one_index_entry_for_each_queue(rig: AdmissionRig) -> None:
    """However many tasks wait: no statement of a claim may read the table from end to end."""
    for project in "abc":
        await rig.submit(project)
    plans = await rig.database.read(lambda s: [_plan(s, statement) for statement in _statements()])
    if rig.database.is_sqlite:
        assert all("ix_task_queue" in plan for plan in plans), plans
        assert not [plan for plan in plans if "SCAN task\n" in f"{plan}\n"], plans


def _statements() -> list[object]:
    spot = admission.Queue("public", "cpu", "evaluate", "a")
    head = select(store.TaskRow.id).where(*queue._in_line(spot, "a"))
    return [head.order_by(col(store.TaskRow.priority).desc(), col(store.TaskRow.id)).limit(1)]


def _plan(session: object, statement: object) -> str:
    from sqlalchemy import text

    compiled = statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
    prefix = "explain query plan " if session.get_bind().dialect.name == "sqlite" else "explain "
    return "\n".join(str(row[-1]) for row in session.execute(text(prefix + str(compiled))))


async def _all(rig: AdmissionRig) -> list[TaskView]:
    def read(session: object) -> list[TaskView]:
        rows = session.exec(select(store.TaskRow).order_by(col(store.TaskRow.id)))
        return [store.view_of(row) for row in rows]

    views = await rig.database.read(read)
    assert all(a.id < b.id for a, b in pairwise(views))
    return views
