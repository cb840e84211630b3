"""When something that runs must stop. Pure: what is known of it and the time in, what to say out.

Only running seconds count, of all attempts together: those that ended as their worker measured them, those of the one
that runs from its place on. It refuses to fire twice for one deadline, and to be armed again by what is older than
what it knows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from finery_contracts.autostop import AutoStopView
from finery_contracts.deployments import DeploymentFact, DeploymentInstanceEnded, DeploymentState, DeploymentView
from finery_contracts.envelope import Event
from finery_contracts.tasks import TaskView

Noun = Literal["task", "deployment"]
Say = Literal["warned", "due"]
WARN_SHARE, WARN_AT_MOST_S = 0.1, 900.0
RUNS = frozenset(
    {DeploymentState.RUNNING, DeploymentState.ALARM, DeploymentState.ABNORMAL, DeploymentState.UPGRADING}
)  # fmt: skip


class Live(NamedTuple):
    """A task or deployment as the newest fact shows it.

    ``since``: where its running interval begins, None while it does not run. ``run`` counts a deployment's starts; each
    has the whole limit. ``begun``: a worker had it; before that there is nothing to remember. ``told``: the due time
    that was warned of, or told as due. ``alarms`` is the version of what is said here.
    """

    noun: Noun
    noun_id: str
    project: str
    name: str
    created_by: str
    flavour: str
    pool: str
    instances: int
    version: int
    limit_s: int | None
    used_s: float
    since: datetime | None
    over: bool = False
    run: int = 0
    before_s: float = 0.0
    told: datetime | None = None
    fired: bool = False
    alarms: int = 0
    begun: bool = True

    @property
    def due_at(self) -> datetime | None:
        """When its running time is used up; None while it does not run, or may run for ever, or was told already."""
        return None if self.fired else self.ends_at

    @property
    def ends_at(self) -> datetime | None:
        """The same, also when it was told."""
        if self.limit_s is None or self.since is None or self.over:
            return None
        return self.since + timedelta(seconds=self.limit_s - self.used_s)

    @property
    def next_at(self) -> datetime | None:
        """When there is something to say."""
        due_at = self.due_at
        if due_at is None or self.limit_s is None:
            return None
        if self.told == due_at:
            return due_at
        return due_at - timedelta(seconds=min(WARN_SHARE * self.limit_s, WARN_AT_MOST_S))

    def running_s(self, now: datetime) -> float:
        """Of the interval that runs now."""
        return max(0.0, (now - self.since).total_seconds()) if self.since is not None else 0.0

    def view(self, due_at: datetime, now: datetime) -> AutoStopView:
        """As it is told."""
        return AutoStopView(
            noun=self.noun, noun_id=self.noun_id, project=self.project, limit_s=self.limit_s or 0,
            used_s=self.used_s + self.running_s(now), due_at=due_at, version=self.alarms,
        )  # fmt: skip


def look(live: Live, now: datetime) -> tuple[Live, Say | None, datetime | None]:
    """(as it is afterwards, what to say, the due time that is meant)."""
    due_at, next_at = live.due_at, live.next_at
    if due_at is None or next_at is None or now < next_at:
        return live, None, None
    if now >= due_at:
        return live._replace(fired=True, told=due_at, alarms=live.alarms + 1), "due", due_at
    return live._replace(told=due_at, alarms=live.alarms + 1), "warned", due_at


def after(known: Live | None, event: Event) -> Live | None:
    """What is known once this fact was heard; None when there is nothing to know of it."""
    if isinstance(event.data, TaskView):
        seen = _of_task(event.data)
    elif isinstance(event, DeploymentInstanceEnded):
        seen = _of_deployment(event.data.deployment, ended_s=event.data.interval.running_s)
    elif isinstance(event, DeploymentFact):
        seen = _of_deployment(event.data, deleted=type(event).FACT == "deleted")
    else:
        seen = _of_task(event.data.task)
    if known is None:
        return seen if seen.begun else None
    return _newer(known, seen)


def _newer(known: Live, seen: Live) -> Live:
    if seen.noun == "deployment" and seen.run == known.run:
        # Whichever fact of this start saw the least: what ran before it does not count.
        before_s = min(known.before_s, seen.before_s)
        total = max(known.before_s + known.used_s, seen.before_s + seen.used_s)
        if seen.version <= known.version:
            return known._replace(before_s=before_s, used_s=known.before_s + known.used_s - before_s)
        seen = seen._replace(before_s=before_s, used_s=total - before_s)
    if seen.version <= known.version:
        return known
    # What was told as due before this was known was told too early, if the end is later now.
    later = known.told is not None and seen.ends_at is not None and seen.ends_at > known.told
    fired = known.fired and seen.run == known.run and not later
    return seen._replace(told=known.told, fired=fired, over=known.over or seen.over, alarms=known.alarms)


def _of_task(task: TaskView) -> Live:
    attempt = task.attempts[-1] if task.attempts else None
    runs = attempt is not None and attempt.state == "running" and not task.state.ended
    since = attempt.claimed_at + timedelta(seconds=attempt.preparing_s) if attempt is not None and runs else None
    return Live(
        "task", task.id, task.project, task.name, task.created_by, task.flavour, task.pool, task.instances,
        task.version, task.auto_stop_s, sum(a.running_s for a in task.attempts if a.state == "ended"), since,
        over=task.state.ended, begun=attempt is not None or task.state.ended,
    )  # fmt: skip


def _of_deployment(view: DeploymentView, *, ended_s: float | None = None, deleted: bool = False) -> Live:
    """``ended_s``: its instance just ended; that interval is in ``running_s`` and its place is past."""
    runs = view.state in RUNS and ended_s is None and not deleted
    return Live(
        "deployment", view.id, view.project, view.name, view.created_by, view.flavour, view.pool, view.instances,
        view.version, view.auto_stop_s, ended_s or 0.0, view.running_at if runs else None, over=deleted, run=view.runs,
        before_s=view.running_s - (ended_s or 0.0),
    )  # fmt: skip
