"""What must hold of tasks, written down a second time and in another way than the domain does it.

It follows what workers, people and deadlines do and what studio says; what differs from these tables is a violation. It
shares no code with the domain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from finery_contracts.envelope import Event
from finery_contracts.tasks import TaskView
from finery_contracts.work import HeartbeatRequest, Report
from tests.simulation.world import Violation, World

HEARTBEAT_S = 2.0
NEXT = {
    "created": {"queued", "failed", "terminated"},
    "queued": {"preparing", "failed", "terminated"},
    "preparing": {"running", "succeeded", "failed", "terminated"},
    "running": {"succeeded", "failed", "terminated"},
}
ENDED = {"succeeded", "failed", "terminated"}
TOLD = {"terminate": "terminated", "auto_stop": "auto_stop", "budget": "budget", "pause": "paused", "hung": "hung"}
WEAKEST_FIRST = ["hung", "pause", "budget", "auto_stop", "terminate"]
COSTS = {"succeeded", "user_mistake", "terminated", "auto_stop", "budget", "paused"}
BLAMED = {"crashed", "lost", "hung"}
MAX_ATTEMPTS = 3


@dataclass
class Try:
    """An attempt, as its worker and studio's clock show it."""

    worker: str
    claimed_at: datetime
    seq: int = 0
    preparing_s: float = 0.0
    running_s: float = 0.0
    runs: bool = False
    told: str | None = None
    expects: tuple[str, str | None] | None = None
    reason: str | None = None
    code: str | None = None

    @property
    def place(self) -> datetime:
        """Where its run interval begins."""
        return self.claimed_at + timedelta(seconds=self.preparing_s)


@dataclass
class Story:
    """A task, as it was told."""

    state: str = ""
    version: int = 0
    paused: bool = False
    deleted: bool = False
    tries: list[Try] = field(default_factory=list[Try])
    checkpoints: set[int] = field(default_factory=set[int])
    wanted_over: bool = False

    @property
    def live(self) -> Try | None:
        """The attempt that a worker has."""
        last = self.tries[-1] if self.tries else None
        return last if last is not None and last.reason is None else None

    def ran_s(self, now: datetime) -> float:
        """Running seconds of all attempts until now."""
        ended = sum(one.running_s for one in self.tries if one.reason is not None)
        live = self.live
        return ended + (max(0.0, (now - live.place).total_seconds()) if live is not None and live.runs else 0.0)


@dataclass(frozen=True)
class Charge:
    """A run interval that costs something, as the rules have it."""

    source: str
    project: str
    running_s: float
    started_at: datetime
    instances: int
    public: bool = True


class TaskRules:
    """Judges every transaction of studio."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stories: dict[str, Story] = {}
        self.charges: dict[str, Charge | None] = {}
        """By event id: what the fact costs, None when it is free."""

    # --- what studio is asked ---------------------------------------------------------------------------------------

    def reported(self, news: Report, before: TaskView | None) -> bool:
        """A report comes; True when it may change something."""
        story = self.stories[news.task_id]
        live = story.live
        if before is None or live is None or news.attempt != len(story.tries) or news.seq <= live.seq:
            return False
        live.seq, live.preparing_s, live.running_s = news.seq, news.preparing_s, news.running_s
        live.runs = live.runs or news.phase == "running"
        story.checkpoints |= {checkpoint.step for checkpoint in news.checkpoints}
        if news.end is not None:
            live.expects = (str(news.end.reason), news.end.error.code if news.end.error else None)
        return True

    def silent(self, task_id: str) -> None:
        """Studio gives up the live attempt."""
        live = self.stories[task_id].live
        self._must(live is not None, f"{task_id} is given up though nobody has it")
        assert live is not None
        live.expects = ("lost", "worker_lost")

    def stopped(self, task_id: str, why: str, limit_s: int | None) -> None:
        """Somebody's stop was accepted."""
        story = self.stories[task_id]
        if why == "auto_stop" and limit_s is not None:
            ran_s = story.ran_s(self.world.now)
            self._must(ran_s >= limit_s - 0.001, f"{task_id} is stopped after {ran_s} s of {limit_s} s")
        live = story.live
        if live is None:
            story.wanted_over = story.wanted_over or why in ("terminate", "auto_stop")
        elif live.told is None or WEAKEST_FIRST.index(why) > WEAKEST_FIRST.index(live.told):
            live.told = why

    def beat(self, task: TaskView, beat: HeartbeatRequest, command: str, reason: str | None) -> None:
        """A heartbeat of the current attempt was answered."""
        story = self.stories[task.id]
        live = story.live
        current = live is not None and beat.attempt == len(story.tries)
        self._must((command == "abandon") == (not current), f"{task.id}: attempt {beat.attempt} hears {command}")
        if live is None or not current:
            return
        self._must(beat.worker == live.worker, f"{task.id}: two workers hold attempt {beat.attempt}")
        self._must(reason == live.told, f"{task.id}: told {live.told} but hears {reason}")
        # An attempt may begin with less left than it takes to hear so; of what ran before it nothing can be taken back.
        runs_s = (self.world.now - live.place).total_seconds() if live.runs else 0.0
        over_s = min(runs_s, story.ran_s(self.world.now) - (task.auto_stop_s or 1e9))
        if command == "continue" and self.world.calm_for_s() > 10:
            self._must(over_s <= HEARTBEAT_S, f"{task.id} goes on {over_s:.3f} s after its auto-stop")

    def hanging(self, beat: HeartbeatRequest, factor: float, floor_s: float, *, said: bool) -> None:
        """A heartbeat was judged."""
        median_s = beat.median_step_s
        hangs = median_s is not None and beat.quiet_s > floor_s and beat.quiet_s > factor * median_s
        self._must(hangs == said, f"{beat.task_id}: quiet for {beat.quiet_s} s, hang: {said}")

    # --- what studio decided ----------------------------------------------------------------------------------------

    def judge(self, before: TaskView | None, after: TaskView, facts: list[Event]) -> None:
        """One committed transaction on one task."""
        story = self.stories.setdefault(after.id, Story())
        self._must(not story.deleted, f"{after.id} is told of after it was deleted")
        if before is not None and before.version != after.version:
            self._must(bool(facts), f"{after.id}: version {after.version} is not said")
        for fact in facts:
            self._must(
                fact.nounversion == story.version + 1,
                f"{after.id}: version {fact.nounversion} is said after {story.version}",
            )
            story.version = fact.nounversion
            self._hear(story, fact)
        self._must(after.version == story.version, f"{after.id}: is at {after.version}, said {story.version}")
        self._must(str(after.state) == story.state, f"{after.id}: is {after.state}, said {story.state}")
        self._must(
            {checkpoint.step for checkpoint in after.checkpoints} == story.checkpoints,
            f"{after.id} forgot checkpoints",
        )
        ran_s = sum(one.running_s for one in story.tries)
        self._must(abs(after.running_s - ran_s) < 1e-6, f"{after.id} ran {after.running_s} s, not {ran_s}")
        live = [attempt.number for attempt in after.attempts if attempt.state != "ended"]
        self._must(len(live) <= 1, f"{after.id} has live attempts {live}")

    def unchanged(self, before: TaskView, after: TaskView, facts: list[Any]) -> None:
        """What was stale changed nothing."""
        self._must(after == before and not facts, f"{before.id}: a stale report changed it")

    def _hear(self, story: Story, fact: Event) -> None:
        name = type(fact).FACT
        task: TaskView = fact.data if isinstance(fact.data, TaskView) else fact.data.task
        self._move(story, task)
        if name == "preparing":
            self._claimed(story, task)
        elif name == "attempt_ended":
            self._ended(story, fact)
        elif name == "paused":
            self._must(story.live is None and not story.paused, f"{task.id} is paused while it runs")
            story.paused = True
        elif name == "resumed":
            self._must(story.paused, f"{task.id} is resumed but was not paused")
            story.paused = False
        elif name == "running":
            live = story.live
            self._must(live is not None and live.runs, f"{task.id} is said to run")
        elif name == "deleted":
            self._must(story.state in ENDED, f"{task.id} is deleted while {story.state}")
            story.deleted = True
        if name not in ("attempt_ended", "move_refused"):
            self._after_attempts(story, task, name)

    def _move(self, story: Story, task: TaskView) -> None:
        state = str(task.state)
        if state != story.state:
            allowed = NEXT.get(story.state, set()) if story.state else {"created"}
            self._must(state in allowed, f"{task.id} went from {story.state or 'nothing'} to {state}")
            story.state = state

    def _claimed(self, story: Story, task: TaskView) -> None:
        attempt = task.attempts[-1]
        self._must(story.live is None, f"{task.id} is claimed while {story.live} has it")
        self._must(not story.paused, f"{task.id} is claimed while paused")
        self._must(attempt.number == len(story.tries) + 1 == len(task.attempts), f"{task.id}: wrong attempt number")
        self._must(attempt.claimed_at == self.world.now, f"{task.id}: claim time is not studio's")
        story.tries.append(Try(attempt.worker, attempt.claimed_at))

    def _ended(self, story: Story, fact: Event) -> None:
        task, attempt, interval = fact.data.task, fact.data.attempt, fact.data.interval
        live = story.live
        self._must(live is not None and live.expects is not None, f"{task.id}: an attempt ended that nobody ended")
        assert live is not None
        assert live.expects is not None
        reported, live.code = live.expects
        named = live.told is not None and reported in ("terminated", "crashed")
        live.reason = TOLD[live.told] if named and live.told is not None else reported
        number = len(story.tries)
        self._must(attempt.number == interval.attempt == number and interval.n == 1, f"{task.id}: interval of another")
        self._must(str(interval.reason) == live.reason, f"{task.id}: ended {interval.reason}, not {live.reason}")
        self._must(interval.billed == (live.reason in COSTS), f"{task.id}: {live.reason} billed={interval.billed}")
        self._must(interval.running_s == live.running_s, f"{task.id}: {interval.running_s} is not its running time")
        self._must(interval.started_at == live.place, f"{task.id}: its interval is not at its place")
        costs = live.reason in COSTS and live.running_s > 0
        source = f"task:{task.id}:{number}:1"
        charge = Charge(source, task.project, live.running_s, live.place, task.instances, task.pool == "public")
        self.charges[fact.id] = charge if costs else None

    def _after_attempts(self, story: Story, task: TaskView, name: str) -> None:
        """What became of a task whose newest attempt has just ended."""
        if name == "terminated" and not story.tries:
            self._must(story.wanted_over, f"{task.id} is terminated though nobody wanted it")
        if not story.tries or story.live is not None or name not in (*ENDED, "paused", "retrying"):
            return
        last = story.tries[-1]
        if name == "terminated":
            asked = last.told in ("terminate", "auto_stop") or last.reason == "terminated" or story.wanted_over
            self._must(asked, f"{task.id} is terminated though nobody wanted it")
        if name == "retrying":
            self._must(
                last.told not in ("terminate", "auto_stop", "pause"), f"{task.id} tries again though {last.told}"
            )
            self._must(last.reason not in ("succeeded", "user_mistake"), f"{task.id} tries again after {last.reason}")
            self._must(self._blamed(story) < MAX_ATTEMPTS or last.told == "budget", f"{task.id} is tried too often")
        if name == "failed":
            mistake = last.reason == "user_mistake"
            self._must(mistake or self._blamed(story) >= MAX_ATTEMPTS, f"{task.id} was given up too early")
        if name == "succeeded":
            self._must(last.reason == "succeeded", f"{task.id} succeeded by an attempt that {last.reason}")

    def _blamed(self, story: Story) -> int:
        return sum(1 for one in story.tries if one.reason in BLAMED and one.code != "worker_left")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


def rests(story: Story) -> bool:
    """Whether nothing more needs to happen."""
    return story.state in ENDED or story.paused


__all__ = ["ENDED", "HEARTBEAT_S", "MAX_ATTEMPTS", "Charge", "Story", "TaskRules", "rests"]
