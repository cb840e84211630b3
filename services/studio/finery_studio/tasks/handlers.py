"""What studio does when workers speak: claim, heartbeat, report; and when they fall silent or someone stops a task."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from finery_contracts.errors import Conflict, ErrorBody, FineryError, NotFound
from finery_contracts.jobs import TaskKind
from finery_contracts.model import Record
from finery_contracts.tasks import EndReason, TaskState, TaskView
from finery_contracts.work import (
    AttemptEnd,
    Claim,
    ClaimAnswer,
    ClaimRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Report,
)
from finery_kit.db import Database, Transaction
from finery_studio.tasks import domain, store
from finery_studio.tasks.submit import SpecMaker, advance, give_up

Outcome = Callable[[Transaction, TaskView], dict[str, str]]
"""What a kind's own module makes of an ended task; the answer (ids) is added to the task's result."""


@dataclass
class Pulses:
    """When each live attempt was last heard, by studio's own monotonic clock: never across a restart."""

    clock: Callable[[], float] = time.monotonic
    heard: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])

    def beat(self, task: str, attempt: int) -> None:
        """It lives."""
        self.heard[(task, attempt)] = self.clock()

    def silent(self, live: list[tuple[str, int]], limit_s: float) -> list[tuple[str, int]]:
        """Which of these were silent for too long. One that is seen for the first time has just been heard."""
        now = self.clock()
        self.heard = {key: self.heard.get(key, now) for key in live}
        return [key for key in live if now - self.heard[key] > limit_s]


@dataclass
class TaskDesk:
    """Everything about tasks that needs the database; the kinds plug in their spec makers and outcomes."""

    database: Database
    specs: Mapping[TaskKind, SpecMaker]
    outcomes: Mapping[TaskKind, Outcome]
    max_attempts: int
    pulses: Pulses
    wake_relay: Callable[[], None]
    ring: Callable[[], None]

    async def on_claim(self, request: ClaimRequest) -> ClaimAnswer:
        """RPC ``claim``."""
        answer = await self.database.write(lambda tx: self.claim(tx, request))
        if answer.claim is not None:
            self.pulses.beat(answer.claim.task_id, answer.claim.attempt)
            self.wake_relay()
        return answer

    def claim(self, tx: Transaction, request: ClaimRequest) -> ClaimAnswer:
        """The best waiting task; the same request id gets the same answer."""
        given = tx.session.get(store.ClaimRow, request.request_id)
        if given is not None:
            return ClaimAnswer.model_validate_json(given.answer)
        row = store.best_claimable(tx.session, request.kinds, request.pool)
        if row is None:
            return ClaimAnswer()
        task = store.save(tx, row, domain.claim(store.view_of(row), request.worker, tx.now))
        row.report_seq, row.stop_requested = 0, False
        resume = [kept.path for kept in reversed(task.checkpoints)] if len(task.attempts) > 1 else []
        claim = Claim.model_validate(
            {
                "task_id": task.id, "attempt": len(task.attempts), "project": task.project, "resume_from": resume,
                "spec": _json(row.spec), "traceparent": row.traceparent,
            }
        )  # fmt: skip
        answer = ClaimAnswer(claim=claim)
        tx.session.add(
            store.ClaimRow(
                request_id=request.request_id, answer=answer.model_dump_json(), created_at=tx.now.isoformat()
            )
        )
        return answer

    async def on_heartbeat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        """RPC ``heartbeat``: continue, stop, or abandon because the fence moved on."""
        row = await self.database.read(lambda session: session.get(store.TaskRow, request.task_id))
        if row is None or row.attempt != request.attempt or not domain.has_live_attempt(store.view_of(row)):
            return HeartbeatAnswer(command="abandon", reason="this attempt is not the current one")
        self.pulses.beat(request.task_id, request.attempt)
        if row.stop_requested:
            return HeartbeatAnswer(command="stop", reason="terminated")
        return HeartbeatAnswer(command="continue")

    def on_report(self, tx: Transaction, news: Report) -> None:
        """A snapshot; one that is stale or was seen already changes nothing."""
        row = tx.session.get(store.TaskRow, news.task_id)
        if row is None or news.attempt != row.attempt or news.seq <= row.report_seq:
            return
        row.report_seq = news.seq
        if news.end is not None:
            news = news.model_copy(update={"end": _as_told(row, news.end)})
        before = store.view_of(row)
        decision = domain.report(before, news, tx.now, max_attempts=self.max_attempts)
        self._conclude(tx, row, before, decision)

    def lose(self, tx: Transaction, task_id: str, attempt: int) -> None:
        """An attempt was silent for too long."""
        row = tx.session.get(store.TaskRow, task_id)
        if row is None or row.attempt != attempt:
            return
        before = store.view_of(row)
        silence = ErrorBody(code="worker_lost", message="the worker was not heard of for too long")
        end = _as_told(row, AttemptEnd(reason=EndReason.LOST, error=silence))
        self._conclude(tx, row, before, domain.end_attempt(before, end, tx.now, max_attempts=self.max_attempts))

    def terminate(self, tx: Transaction, project: str, task_id: str) -> TaskView:
        """Someone wants it stopped: at once when nobody works on it, else by the next heartbeat's answer."""
        row = store.load(tx.session, project, task_id)
        task = store.view_of(row)
        if task.state.ended:
            raise Conflict(f"task {task_id} has {task.state} already; there is nothing to stop", code="task_ended")
        if domain.has_live_attempt(task):
            row.stop_requested = True
            return task
        self._conclude(tx, row, task, domain.terminate_idle(task, tx.now))
        return store.view_of(row)

    def _conclude(self, tx: Transaction, row: store.TaskRow, before: TaskView, decision: domain.Decision) -> None:
        """Save; when the task ended with this, let its kind register what came of it, and move those that wait."""
        task, facts = decision
        if task.state.ended and not before.state.ended:
            task, facts = self._with_outcome(tx, task, facts)
        store.save(tx, row, (task, facts))
        tx.session.flush()
        tx.after_commit.append(self.wake_relay)
        tx.after_commit.append(self.ring)
        if task.state.ended and not before.state.ended:
            self._move_dependents(tx, task)

    def _with_outcome(self, tx: Transaction, task: TaskView, facts: list[domain.Fact]) -> domain.Decision:
        try:
            with tx.session.begin_nested():
                made = self.outcomes[task.kind](tx, task)
        except FineryError as fault:
            made = {"note": fault.message}
        told = task.model_copy(update={"result": {**task.result, **made}})
        return told, [domain.Fact(fact.kind, fact.version, told) if fact.data is task else fact for fact in facts]

    def _move_dependents(self, tx: Transaction, ended: TaskView) -> None:
        for row in store.dependents(tx.session, ended.id):
            before = store.view_of(row)
            won = ended.state is TaskState.SUCCEEDED
            after = advance(tx, row, self.specs) if won else give_up(tx, row, ended)
            if after.state.ended and not before.state.ended:
                self.outcomes[after.kind](tx, after)
                self._move_dependents(tx, after)


def _as_told(row: store.TaskRow, end: AttemptEnd) -> AttemptEnd:
    """An attempt that was told to stop ends the task, in good order or not: it is not tried again."""
    if row.stop_requested and end.reason in (EndReason.CRASHED, EndReason.LOST):
        return end.model_copy(update={"reason": EndReason.TERMINATED})
    return end


def _json(text: str | None) -> object:
    if text is None:
        raise NotFound("the task has no spec", code="task_not_ready")
    return json.loads(text)


class Nothing(Record):
    """An empty request."""
