"""Studio, driven as its handlers drive the domain: claims, heartbeats, reports, the watch, people's wishes, deadlines.

Only storage is modelled here; every decision is the domain's. What it decides is judged by ``rules`` at every commit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from finery_contracts.autostop import AutoStopFact
from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, EngineFailed, ErrorBody
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason, NotifyChoice, StopReason, TaskCreated, TaskState, TaskView
from finery_contracts.work import AttemptEnd, HeartbeatRequest, Report
from tests.simulation.domains import Domains
from tests.simulation.machinery import Bus, Crashed, Process, Tx
from tests.simulation.rules import MAX_ATTEMPTS, TaskRules
from tests.simulation.world import SECOND, World

SILENCE_S, GAP_S, LOOK_S = 10.0, 5.0, 1.0
HANG_FACTOR, HANG_FLOOR_S = 20.0, 12.0


@dataclass(frozen=True)
class Row:
    """A task as it is stored."""

    view: TaskView
    report_seq: int = 0
    needs: tuple[str, ...] = ()


class Pulse(NamedTuple):
    """When a live attempt was last heard."""

    attempt: int
    heard_us: int
    hang_said: bool = False


class Watch(NamedTuple):
    """Until when studio was awake and on the bus, and since when without a gap."""

    awake_us: int
    counts_from_us: int


@dataclass(frozen=True)
class Asked:
    """What somebody submits."""

    id: str
    project: str
    priority: int = 50
    auto_stop_s: int | None = None
    on_hang: str = "tell"
    instances: int = 1
    pool: str = "public"
    needs: tuple[str, ...] = ()
    notify: NotifyChoice | None = None


Change = tuple[TaskView | None, TaskView, list[Event]]


class Studio:
    """The owner of tasks."""

    def __init__(self, world: World, bus: Bus, domains: Domains) -> None:
        self.world, self.tasks = world, domains.tasks
        self.process = Process(world, bus, "studio")
        self.rules = TaskRules(world)
        self.bus = bus
        self._changes: list[Change] = []
        self._told: list[tuple[str, str, int | None]] = []
        self._reports: list[tuple[Report, TaskView]] = []
        self._silent: list[str] = []
        bus.listen(self.process, lambda event: type(event).NOUN == "autostop", self.on_deadline)
        world.after(LOOK_S, self._look)
        self.looks = True

    @property
    def rows(self) -> dict[str, Row]:
        """All tasks that are there."""
        return self.process.disk.setdefault("task", {})

    # --- people -------------------------------------------------------------------------------------------------

    def submit(self, asked: Asked) -> bool:
        """A task is wanted; True once it is accepted. Asked again, it is the same."""

        def work(tx: Tx) -> bool:
            if tx.get("task", asked.id) is not None:
                return True
            view = TaskView(
                id=asked.id, project=asked.project, kind=TaskKind.TUNE, name=asked.id, state=TaskState.CREATED,
                version=1, created_by="user", flavour="gpu", instances=asked.instances, pool=asked.pool,
                priority=asked.priority, auto_stop_s=asked.auto_stop_s,
                on_hang="retry" if asked.on_hang == "retry" else "tell",
                created_at=tx.now, notify=asked.notify,
            )  # fmt: skip
            created = tx.emit(TaskCreated, view.id, version=1, data=view, project=view.project)
            self._changes.append((None, view, [created]))
            known = [self.rows.get(need) for need in asked.needs]
            row = Row(view, needs=tuple(need.view.id for need in known if need is not None and not _in_vain(need)))
            tx.put("task", view.id, row)
            self._advance(tx, row)
            return True

        return self._write(work)

    def wish(self, task_id: str, wish: str) -> bool:
        """Somebody wants something; True when it was answered, with yes or with no."""

        def work(tx: Tx) -> bool:
            row: Row | None = tx.get("task", task_id)
            if row is None:
                return True
            try:
                self._grant(tx, row, wish)
            except Conflict as no:
                refused = self.tasks.refuse(row.view, asked=wish, by="user", error=no.body)
                self.world.trace(f"{task_id}: {wish} refused ({no.body.code})")
                self._conclude(tx, row, refused)
            return True

        return self._write(work)

    def _grant(self, tx: Tx, row: Row, wish: str) -> None:
        if wish == "resume":
            self._conclude(tx, row, self.tasks.resume(row.view))
            self._advance(tx, tx.get("task", row.view.id))
        elif wish == "delete":
            self._conclude(tx, row, self.tasks.delete(row.view))
            tx.put("task", row.view.id, None)
            tx.put("pulse", row.view.id, None)
        else:
            self._stop(tx, row, StopReason(wish))

    def _stop(self, tx: Tx, row: Row, why: StopReason) -> None:
        decision = self.tasks.stop(row.view, why, tx.now)
        self._told.append((row.view.id, str(why), row.view.auto_stop_s))
        self._conclude(tx, row, decision)

    # --- workers ------------------------------------------------------------------------------------------------

    def claim(self, request_id: str, worker: str) -> tuple[str, int, int] | None:
        """The best waiting task: (task, attempt, steps done); the same request has the same answer."""

        def work(tx: Tx) -> tuple[str, int, int] | None:
            given = tx.get("claim", request_id)
            if given is not None:
                return given
            waiting = [row for row in self.rows.values() if self.tasks.claimable(row.view)]
            if not waiting:
                return None
            row = min(waiting, key=lambda row: (-row.view.priority, row.view.id))
            task = self._conclude(tx, replace(row, report_seq=0), self.tasks.claim(row.view, worker, tx.now))
            tx.put("pulse", task.id, Pulse(len(task.attempts), self.world.us))
            answer = (task.id, len(task.attempts), max((kept.step for kept in task.checkpoints), default=0))
            tx.put("claim", request_id, answer)
            return answer

        return self._write(work)

    def heartbeat(self, beat: HeartbeatRequest) -> tuple[str, str | None]:
        """One sign of life: what to do, and why."""

        def work(tx: Tx) -> tuple[str, str | None]:
            row: Row | None = tx.get("task", beat.task_id)
            if row is None or len(row.view.attempts) != beat.attempt or not self.tasks.has_live_attempt(row.view):
                return "abandon", None
            pulse: Pulse = tx.get("pulse", beat.task_id)
            hangs = self.tasks.seems_to_hang(beat, factor=HANG_FACTOR, floor_s=HANG_FLOOR_S)
            self.rules.hanging(beat, HANG_FACTOR, HANG_FLOOR_S, said=hangs)
            reason = row.view.stop_reason
            said = pulse.hang_said
            if reason is None and hangs != pulse.hang_said:
                said = hangs
                if hangs:
                    if row.view.on_hang == "retry":
                        self._told.append((row.view.id, "hung", None))
                    reason = self._conclude(tx, row, self.tasks.suspect_hang(row.view, beat, tx.now)).stop_reason
            tx.put("pulse", beat.task_id, Pulse(beat.attempt, self.world.us, said))
            if reason is None:
                return "continue", None
            return ("pause" if reason == StopReason.PAUSE else "stop"), str(reason)

        answer = self._write(work)
        row = self.rows.get(beat.task_id)
        if row is not None:
            self.rules.beat(row.view, beat, *answer)
        return answer

    def on_report(self, news: Report) -> None:
        """A snapshot from the bus."""

        def work(tx: Tx) -> None:
            row: Row | None = tx.get("task", news.task_id)
            if row is None or (news.attempt == len(row.view.attempts) and news.seq <= row.report_seq):
                return
            decision = self.tasks.report(row.view, news, tx.now, max_attempts=MAX_ATTEMPTS)
            fresh = news.attempt == len(row.view.attempts) and self.rules.stories[news.task_id].live is not None
            if not fresh:
                self.rules.unchanged(row.view, *decision)
                return
            self._reports.append((news, row.view))
            self._conclude(tx, replace(row, report_seq=news.seq), decision)

        self._write(work)

    # --- time ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.looks:
            self.world.after(LOOK_S, self._look)
        if self.process.up and self.bus.up:
            try:
                self._write(self._lose_silent)
            except Crashed:
                return

    def _lose_silent(self, tx: Tx) -> None:
        now = self.world.us
        watch: Watch = tx.get("watch", 1) or Watch(now, now)
        gap = now - watch.awake_us > GAP_S * SECOND
        watch = Watch(now, now if gap else watch.counts_from_us)
        tx.put("watch", 1, watch)
        deadline = now - SILENCE_S * SECOND
        if watch.counts_from_us >= deadline:
            return
        for row in list(self.rows.values()):
            pulse: Pulse | None = tx.get("pulse", row.view.id)
            if pulse is None or pulse.heard_us >= deadline or not self.tasks.has_live_attempt(row.view):
                continue
            silence = ErrorBody(code="worker_lost", message="the worker was not heard of for too long")
            end = AttemptEnd(reason=EndReason.LOST, error=silence)
            self._silent.append(row.view.id)
            self._conclude(tx, row, self.tasks.end_attempt(row.view, end, tx.now, max_attempts=MAX_ATTEMPTS))

    def on_deadline(self, event: Event) -> None:
        """The meter says that time is used up, or soon will be."""
        if not isinstance(event, AutoStopFact) or event.data.noun != "task":
            return

        def work(tx: Tx) -> None:
            row: Row | None = tx.get("task", event.data.noun_id)
            if not tx.first_sight(event) or row is None or row.view.state.ended:
                return
            if type(event).FACT == "due":
                decision = self.tasks.auto_stop(row.view, event.data.due_at, tx.now)
                if decision[0] is not row.view:
                    self._told.append((row.view.id, "auto_stop", row.view.auto_stop_s))
                self._conclude(tx, row, decision)
            else:
                self._conclude(tx, row, self.tasks.warn_of_auto_stop(row.view, event.data.due_at, tx.now))

        self._write(work)

    # --- below --------------------------------------------------------------------------------------------------

    def _write(self, work: Any) -> Any:
        """A transaction, judged when it is committed and forgotten by the rules when it is not."""
        self._changes, self._told, self._reports, self._silent = [], [], [], []
        return self.process.write(work, committed=lambda _: self._judge())

    def _judge(self) -> None:
        for news, view in self._reports:
            self.rules.reported(news, view)
        for task_id in self._silent:
            self.rules.silent(task_id)
        for told in self._told:
            self.rules.stopped(*told)
        for before, after, facts in self._changes:
            self.rules.judge(before, after, facts)

    def _conclude(self, tx: Tx, row: Row, decision: Any) -> TaskView:
        before = row.view
        task, facts = decision
        if not self.tasks.has_live_attempt(task):
            tx.put("pulse", task.id, None)
        tx.put("task", task.id, replace(row, view=task))
        said = [tx.emit(f.kind, task.id, version=f.version, data=f.data, project=task.project) for f in facts]
        self._changes.append((before, task, said))
        if task.state.ended and not before.state.ended:
            for waiting in list(self.rows.values()):
                if task.id in waiting.needs:
                    self._advance(tx, tx.get("task", waiting.view.id), ended=task)
        return task

    def _advance(self, tx: Tx, row: Row, *, ended: TaskView | None = None) -> None:
        if row.view.state is not TaskState.CREATED:
            return
        if ended is not None and ended.state is not TaskState.SUCCEEDED:
            self._conclude(tx, row, self.tasks.fail(row.view, EngineFailed().body, tx.now))
            return
        if row.view.phase == "paused":
            return
        needs: list[Row | None] = [tx.get("task", need) for need in row.needs]
        # One that is gone had ended before, and had it been in vain, this one would have ended with it.
        if all(need is None or need.view.state is TaskState.SUCCEEDED for need in needs):
            self._conclude(tx, row, self.tasks.queue(row.view, tx.now))


def _in_vain(row: Row) -> bool:
    return row.view.state.ended and row.view.state is not TaskState.SUCCEEDED
