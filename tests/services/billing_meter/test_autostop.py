"""Auto-stop: only running seconds count, it warns before, stops once, and outlives restarts and an absent broker."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from billing_rig import AT, Rig, fact, instance_ended

from finery_billing_meter.alarms import Alarms
from finery_billing_meter.app import alarms_of
from finery_billing_meter.ledger.store import BILLING_METADATA
from finery_contracts.autostop import AutoStopDue, AutoStopView, AutoStopWarned
from finery_contracts.deployments import DeploymentRunning, DeploymentState, DeploymentView
from finery_contracts.envelope import Event
from finery_contracts.jobs import Phase, TaskKind
from finery_contracts.registry import parse_event
from finery_contracts.tasks import EndReason, StopReason, TaskState, TaskView
from finery_contracts.work import AttemptEnd, Report
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.testing import VirtualClock
from finery_studio.tasks import domain as studio

HOUR = 3600
BEAT_S = 2.0


def alarms(rig: Rig) -> Alarms:
    return Alarms(rig.database, alarms_of(rig.book), lambda: None)


async def told(rig: Rig) -> list[tuple[str, AutoStopView]]:
    events = [parse_event(row.body) for row in await rig.said() if row.noun == "autostop"]
    return [(type(event).FACT, event.data) for event in events]


@dataclass
class Story:
    """A task's life as studio tells it, with studio's own domain."""

    now: datetime = AT
    limit_s: int | None = HOUR
    said: list[Event] = field(default_factory=list[Event])
    task: TaskView = field(init=False)

    def __post_init__(self) -> None:
        self.task = TaskView(
            id="task_1", project="proj_1", kind=TaskKind.TUNE, name="t", state=TaskState.CREATED, version=1,
            created_by="user_1", created_at=self.now, auto_stop_s=self.limit_s,
        )  # fmt: skip
        self._take(studio.queue(self.task, self.now))

    def claim(self) -> None:
        self._take(studio.claim(self.task, "w", self.now))

    def report(self, *, preparing_s: float, running_s: float, end: EndReason | None = None) -> None:
        news = Report(
            task_id="task_1", attempt=len(self.task.attempts), project="proj_1", worker="w", seq=1, phase=Phase.RUNNING,
            preparing_s=preparing_s, running_s=running_s, end=AttemptEnd(reason=end) if end else None,
        )  # fmt: skip
        self._take(studio.report(self.task, news, self.now, max_attempts=99))

    def stop(self, why: StopReason) -> None:
        self._take(studio.stop(self.task, why, self.now))

    def resume(self) -> None:
        self._take(studio.resume(self.task))

    def _take(self, decision: studio.Decision) -> None:
        self.task, facts = decision
        self.said += [fact(f.kind, "task_1", project="proj_1", version=f.version, data=f.data) for f in facts]


def a_running_task(*, limit_s: int | None = HOUR) -> Story:
    story = Story(limit_s=limit_s)
    story.claim()
    story.report(preparing_s=30, running_s=0)
    return story


async def hear(rig: Rig, story: Story) -> None:
    await rig.hear_all([event for event in story.said if event.type != "io.finery.task.queued.v1"
                        and type(event).FACT not in ("preparing", "retrying")])  # fmt: skip


async def test_it_warns_a_tenth_before_and_is_due_when_the_limit_has_run(rig: Rig):
    await hear(rig, a_running_task())
    start = AT + timedelta(seconds=30)
    rig.clock.now = AT

    warn_at = await alarms(rig).ring()
    assert warn_at == start + timedelta(seconds=0.9 * HOUR)
    assert await told(rig) == []
    rig.clock.now = warn_at
    due_at = await alarms(rig).ring()
    rig.clock.now = due_at
    assert await alarms(rig).ring() is None

    assert due_at == start + timedelta(seconds=HOUR)
    ((warned, soon), (due, now)) = await told(rig)
    assert (warned, due) == ("warned", "due")
    assert (soon.used_s, now.used_s, soon.due_at, now.version) == (3240, 3600, due_at, 2)


async def test_what_was_due_before_a_late_fact_showed_that_it_rested_is_due_again_when_the_rest_has_run(rig: Rig):
    story = a_running_task()
    await hear(rig, story)
    rig.clock.now = AT + timedelta(seconds=30 + HOUR)
    await alarms(rig).ring()
    assert [kind for kind, _ in await told(rig)] == ["due"]

    story.report(preparing_s=30, running_s=1000, end=EndReason.LOST)  # it had ended long before; nobody could tell
    story.now += timedelta(hours=2)
    story.claim()
    story.report(preparing_s=10, running_s=0)
    await hear(rig, story)

    rig.clock.now = end = story.now + timedelta(seconds=10 + HOUR - 1000)
    assert await alarms(rig).ring() is None
    kind, view = (await told(rig))[-1]
    assert (kind, view.due_at, view.used_s) == ("due", end, HOUR)


async def test_a_long_limit_warns_a_quarter_of_an_hour_before(rig: Rig):
    await hear(rig, a_running_task(limit_s=30 * 86_400))
    rig.clock.now = AT

    assert await alarms(rig).ring() == AT + timedelta(seconds=30 + 30 * 86_400 - 900)


async def test_preparing_queueing_and_resting_do_not_count_and_attempts_add_up(rig: Rig):
    story = a_running_task()
    story.report(preparing_s=30, running_s=1000, end=EndReason.LOST)
    story.now += timedelta(hours=9)
    story.claim()
    story.report(preparing_s=500, running_s=0)
    story.stop(StopReason.PAUSE)
    story.report(preparing_s=500, running_s=2000, end=EndReason.TERMINATED)
    await hear(rig, story)
    rig.clock.now = story.now + timedelta(days=2)
    assert await alarms(rig).ring() is None  # it rests

    story.now += timedelta(days=3)
    story.resume()
    story.claim()
    story.report(preparing_s=70, running_s=0)
    await hear(rig, story)

    rig.clock.now = story.now
    due_at = story.now + timedelta(seconds=70 + HOUR - 3000)
    rig.clock.now = await alarms(rig).ring() or AT
    assert rig.clock.now == due_at - timedelta(seconds=360)
    assert await alarms(rig).ring() == due_at


async def test_without_a_limit_nothing_is_ever_due(rig: Rig):
    await hear(rig, a_running_task(limit_s=None))
    rig.clock.now = AT + timedelta(days=900)

    assert await alarms(rig).ring() is None
    assert await told(rig) == []


async def test_what_was_slept_through_is_told_at_once_and_only_as_due(rig: Rig):
    await hear(rig, a_running_task())
    rig.clock.now = AT + timedelta(days=1)

    await alarms(rig).ring()
    await alarms(rig).ring()

    assert [kind for kind, _ in await told(rig)] == ["due"]


@pytest.mark.parametrize("seed", range(8))
async def test_late_and_repeated_facts_neither_arm_again_nor_move_what_is_known(rig: Rig, seed: int):
    dice = random.Random(seed)
    story = a_running_task()
    story.report(preparing_s=30, running_s=600, end=EndReason.CRASHED)
    story.now += timedelta(seconds=700)
    story.claim()
    story.report(preparing_s=10, running_s=0)
    facts = [event for event in story.said if type(event).FACT in ("created", "running", "attempt_ended")] * 3
    dice.shuffle(facts)
    for event in facts:
        await rig.hear_all([event], past_the_inbox=dice.random() < 0.5)
    rig.clock.now = AT

    due_at = story.now + timedelta(seconds=10 + HOUR - 600)
    assert await alarms(rig).ring() == due_at - timedelta(seconds=360)
    rig.clock.now = due_at
    await alarms(rig).ring()
    for event in facts:
        await rig.hear_past_the_inbox(event)
    rig.clock.advance(86_400)

    assert await alarms(rig).ring() is None
    assert [kind for kind, _ in await told(rig)] == ["due"]


async def test_an_attempt_that_ended_takes_its_deadline_away_whatever_comes_late(rig: Rig):
    story = a_running_task()
    story.report(preparing_s=30, running_s=60, end=EndReason.SUCCEEDED)
    for event in reversed(story.said):
        if type(event).FACT in ("running", "attempt_ended", "succeeded"):
            await rig.hear(event)
    rig.clock.now = AT + timedelta(days=1)

    assert await alarms(rig).ring() is None
    assert await told(rig) == []


async def test_each_start_of_a_deployment_has_the_whole_limit_and_a_crash_within_it_does_not(rig: Rig):
    def view(**said) -> DeploymentView:
        base = {
            "id": "dep_1", "project": "proj_1", "name": "d", "model": "m", "model_name": "m", "qps": 1,
            "state": DeploymentState.RUNNING, "created_by": "u", "created_at": AT, "auto_stop_s": HOUR,
        }  # fmt: skip
        return DeploymentView.model_validate(base | said)

    def running(version: int, **said):
        return fact(DeploymentRunning, "dep_1", project="proj_1", version=version, data=view(version=version, **said))

    ended = instance_ended("dep_1", running_s=1000.0, version=3)
    crashed = ended.model_copy(
        update={"data": ended.data.model_copy(update={"deployment": view(version=3, runs=1, running_s=1000.0)})}
    )
    await rig.hear(running(2, runs=1, running_at=AT))
    await rig.hear(crashed)
    await rig.hear(running(5, runs=1, running_at=AT + timedelta(hours=5), running_s=1000.0))
    rig.clock.now = AT + timedelta(hours=5, seconds=2600)
    await alarms(rig).ring()
    assert [kind for kind, _ in await told(rig)] == ["due"]

    again = AT + timedelta(days=1)
    await rig.hear(running(9, runs=2, running_at=again, running_s=3600.0))
    rig.clock.now = again

    assert await alarms(rig).ring() == again + timedelta(seconds=0.9 * HOUR)


async def test_two_replicas_say_it_once(rig: Rig):
    await hear(rig, a_running_task())
    other = Database(rig.database.url, BILLING_METADATA, DELIVERY_METADATA, clock=rig.clock)
    other.open()
    rig.clock.now = AT + timedelta(hours=2)

    await Alarms(other, alarms_of(rig.book), lambda: None).ring()
    await alarms(rig).ring()
    other.close()

    assert [kind for kind, _ in await told(rig)] == ["due"]


# --- meter, studio and worker with one virtual clock ------------------------------------------------------------------


@dataclass
class World:
    """Meter, studio and a worker that asks every two seconds what to do; the meter wakes when it said it would."""

    folder: Path
    dice: random.Random
    story: Story
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(AT))
    heard: int = 0
    said: list[Event] = field(default_factory=list[Event])
    rig: Rig = field(init=False)

    def __post_init__(self) -> None:
        self.rig = _meter(self.folder, self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.story.now = self.clock.now

    async def attempt(self) -> None:
        if self.story.task.phase == "paused":
            self.story.resume()
        self.story.claim()
        preparing_s, ran_s = self.dice.uniform(0, 200), 0.0
        self.pass_time(preparing_s)
        self.story.report(preparing_s=preparing_s, running_s=0)
        beat_s = self.dice.uniform(0.01, BEAT_S)
        leaves_at_s, why = self.dice.uniform(1, self.story.limit_s or 0), self.dice.choice(["lost", "pause", "stay"])
        while True:
            next_at = await self.settle()
            step_s = beat_s - ran_s
            if next_at is not None and 0 < (next_at - self.clock.now).total_seconds() < step_s:
                step_s = (next_at - self.clock.now).total_seconds()
            ran_s += step_s
            self.pass_time(step_s)
            if ran_s < beat_s:
                continue
            beat_s += BEAT_S
            if self.story.task.stop_reason is not None:
                return self.story.report(preparing_s=preparing_s, running_s=ran_s, end=EndReason.TERMINATED)
            if ran_s > leaves_at_s and why == "lost":
                return self.story.report(preparing_s=preparing_s, running_s=ran_s, end=EndReason.LOST)
            if ran_s > leaves_at_s and why == "pause":
                self.story.stop(StopReason.PAUSE)

    async def settle(self) -> datetime | None:
        """What was said reaches the meter, what the meter says reaches studio; now and then the meter dies."""
        if self.dice.random() < 0.05:
            self.rig.database.close()
            self.rig = _meter(self.folder, self.clock)
        await self.rig.hear_all([event for event in self.story.said[self.heard :] if type(event).FACT in HEARD])
        self.heard = len(self.story.said)
        next_at = await alarms(self.rig).ring()
        said = [parse_event(row.body) for row in await self.rig.said()]
        if any(isinstance(event, AutoStopDue) for event in said[len(self.said) :]):
            self.story.stop(StopReason.AUTO_STOP)
        self.said = said
        return next_at


@pytest.mark.parametrize("seed", range(20))
async def test_it_runs_at_most_one_heartbeat_too_long_through_restarts_pauses_and_losses(tmp_path: Path, seed: int):
    dice = random.Random(seed)
    limit_s = dice.choice([60, 90, 150])
    world = World(tmp_path, dice, Story(limit_s=limit_s))

    while not world.story.task.state.ended:
        world.pass_time(dice.uniform(0, 9999))  # it waits for a worker
        await world.attempt()
    world.rig.database.close()

    assert world.story.task.attempts[-1].reason is EndReason.AUTO_STOP
    assert 0 <= world.story.task.running_s - limit_s <= BEAT_S + 1e-3
    assert [type(event) for event in world.said].count(AutoStopDue) == 1
    assert any(isinstance(event, AutoStopWarned) for event in world.said)


HEARD = {"created", "running", "attempt_ended", "paused", "resumed", "succeeded", "failed", "terminated"}


def _meter(folder: Path, clock: VirtualClock) -> Rig:
    database = Database(f"sqlite:///{folder / 'b.sqlite'}", BILLING_METADATA, DELIVERY_METADATA, clock=clock)
    database.open()
    return Rig(database, clock=clock)
