"""What studio does when workers speak: claim, heartbeat, report; and when they fall silent or someone stops a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import select

from finery_contracts.errors import ErrorBody, FineryError, NotFound
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason, StopReason, TaskState, TaskView
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
from finery_studio.pools.queue import next_task
from finery_studio.pools.store import slots_of
from finery_studio.tasks import domain, pulses, store
from finery_studio.tasks.submit import SpecMaker, advance, give_up

Outcome = Callable[[Transaction, TaskView], dict[str, str]]
"""What a kind's own module makes of an ended task; the answer (ids) is added to the task's result."""


@dataclass(frozen=True)
class HangRule:
    """When silence between two steps is suspicious (``domain.seems_to_hang``)."""

    factor: float
    floor_s: float


@dataclass
class TaskDesk:
    """Everything about tasks that needs the database; the kinds plug in their spec makers and outcomes."""

    database: Database
    specs: Mapping[TaskKind, SpecMaker]
    outcomes: Mapping[TaskKind, Outcome]
    max_attempts: int
    hang: HangRule
    wake_relay: Callable[[], None]
    ring: Callable[[], None]
    choose: Callable[[Transaction, ClaimRequest], store.TaskRow | None] = next_task
    fill: Callable[[Transaction, Claim], Claim] = lambda tx, claim: claim
    """Adds to a claim what is kept nowhere else: neither with the task nor with the answer that may be told again."""

    # --- what workers say ---------------------------------------------------------------------------------------

    async def on_claim(self, request: ClaimRequest) -> ClaimAnswer:
        """RPC ``claim``."""
        answer = await self.database.write(lambda tx: self.claim(tx, request))
        if answer.claim is not None:
            self.wake_relay()
        return answer

    def claim(self, tx: Transaction, request: ClaimRequest) -> ClaimAnswer:
        """The best waiting task; the same request id gets the same answer."""
        given = tx.session.get(store.ClaimRow, request.request_id)
        answer = ClaimAnswer.model_validate_json(given.answer) if given is not None else self._take(tx, request)
        return answer if answer.claim is None else ClaimAnswer(claim=self.fill(tx, answer.claim))

    def _take(self, tx: Transaction, request: ClaimRequest) -> ClaimAnswer:
        row = self.choose(tx, request)
        if row is None:
            return ClaimAnswer()
        task = store.save(tx, row, domain.claim(store.view_of(row), request.worker, tx.now))
        row.report_seq = 0
        pulses.begin(tx, task.id, len(task.attempts))
        resume = [kept.path for kept in reversed(task.checkpoints)] if len(task.attempts) > 1 else []
        claim = Claim.model_validate(
            {
                "task_id": task.id, "attempt": len(task.attempts), "project": task.project, "resume_from": resume,
                "spec": _json(row.spec), "traceparent": row.traceparent,
                "slots": slots_of(tx.session, row.flavour),
            }
        )  # fmt: skip
        answer = ClaimAnswer(claim=claim)
        tx.session.add(
            store.ClaimRow(
                request_id=request.request_id, answer=answer.model_dump_json(), created_at=tx.now.isoformat()
            )
        )
        return answer

    async def on_heartbeat(self, beat: HeartbeatRequest) -> HeartbeatAnswer:
        """RPC ``heartbeat``: continue, pause, stop, or abandon because the fence moved on."""
        return await self.database.write(lambda tx: self.heartbeat(tx, beat))

    def heartbeat(self, tx: Transaction, beat: HeartbeatRequest) -> HeartbeatAnswer:
        """One sign of life, and what it is answered with."""
        query = select(store.TaskRow.attempt, store.TaskRow.live, store.TaskRow.stop_reason)
        found = tx.session.exec(query.where(store.TaskRow.id == beat.task_id)).first()
        if found is None or found[0] != beat.attempt or not found[1]:
            return HeartbeatAnswer(command="abandon", reason="this attempt is not the current one")
        pulse = pulses.beat(tx, beat.task_id)
        stop = found[2]
        if pulse is not None and stop is None:
            stop = self._watch_steps(tx, pulse, beat)
        if stop is None:
            return HeartbeatAnswer(command="continue")
        return HeartbeatAnswer(command="pause" if stop == StopReason.PAUSE else "stop", reason=stop)

    def _watch_steps(self, tx: Transaction, pulse: store.PulseRow, beat: HeartbeatRequest) -> str | None:
        """Suspect a hang once for each silence; the answer is the reason to stop, if its policy makes it one."""
        hangs = domain.seems_to_hang(beat, factor=self.hang.factor, floor_s=self.hang.floor_s)
        if hangs == pulse.hang_said:
            return None
        pulse.hang_said = hangs
        row = store.held(tx.session, beat.task_id) if hangs else None
        if row is None:
            return None
        self._conclude(tx, row, store.view_of(row), domain.suspect_hang(store.view_of(row), beat, tx.now))
        return row.stop_reason

    def on_report(self, tx: Transaction, news: Report) -> None:
        """A snapshot; one that is stale or was seen already changes nothing."""
        row = store.held(tx.session, news.task_id)
        if row is None or news.attempt != row.attempt or news.seq <= row.report_seq:
            return
        row.report_seq = news.seq
        before = store.view_of(row)
        self._conclude(tx, row, before, domain.report(before, news, tx.now, max_attempts=self.max_attempts))

    def lose_silent(self, tx: Transaction, limit_s: float) -> int:
        """Give up the attempts that nobody heard for too long; how many there were."""
        silent = pulses.silent(tx, limit_s)
        for task_id, attempt in silent:
            self.lose(tx, task_id, attempt)
        return len(silent)

    def lose(self, tx: Transaction, task_id: str, attempt: int) -> None:
        """An attempt was silent for too long."""
        row = store.held(tx.session, task_id)
        if row is None or row.attempt != attempt:
            return
        before = store.view_of(row)
        silence = ErrorBody(code="worker_lost", message="the worker was not heard of for too long")
        end = AttemptEnd(reason=EndReason.LOST, error=silence)
        self._conclude(tx, row, before, domain.end_attempt(before, end, tx.now, max_attempts=self.max_attempts))

    # --- what people and deadlines want -------------------------------------------------------------------------

    def stop(self, tx: Transaction, project: str, task_id: str, why: StopReason) -> TaskView:
        """At once when nobody works on it, else by the next heartbeat's answer."""
        row = store.mine(tx.session, project, task_id)
        before = store.view_of(row)
        self._conclude(tx, row, before, domain.stop(before, why, tx.now))
        return store.view_of(row)

    def terminate(self, tx: Transaction, project: str, task_id: str) -> TaskView:
        """Somebody wants it stopped for good."""
        return self.stop(tx, project, task_id, StopReason.TERMINATE)

    def pause(self, tx: Transaction, project: str, task_id: str) -> TaskView:
        """It rests until it is resumed."""
        return self.stop(tx, project, task_id, StopReason.PAUSE)

    def resume(self, tx: Transaction, project: str, task_id: str) -> TaskView:
        """A paused task goes on."""
        row = store.mine(tx.session, project, task_id)
        before = store.view_of(row)
        self._conclude(tx, row, before, domain.resume(before))
        return advance(tx, row, self.specs)  # what it waited for may have come meanwhile

    def delete(self, tx: Transaction, project: str, task_id: str) -> TaskView:
        """It can no longer be named; its history stays in the event log."""
        row = store.mine(tx.session, project, task_id)
        gone = store.save(tx, row, domain.delete(store.view_of(row)))
        store.remove(tx, row)
        tx.after_commit.append(self.wake_relay)
        return gone

    def stop_if_going(self, tx: Transaction, task_id: str, why: StopReason) -> None:
        """A deadline wants it stopped; nothing happens to one that has ended, or is gone."""
        row = store.held(tx.session, task_id)
        before = store.view_of(row) if row is not None else None
        if row is not None and before is not None and not before.state.ended:
            self._conclude(tx, row, before, domain.stop(before, why, tx.now))

    def auto_stop(self, tx: Transaction, task_id: str, due_at: datetime) -> None:
        """The meter says that its running time is used up; nothing happens to one that has ended, or is gone."""
        row = store.held(tx.session, task_id)
        if row is not None:
            before = store.view_of(row)
            self._conclude(tx, row, before, domain.auto_stop(before, due_at, tx.now))

    def warn(self, tx: Transaction, task_id: str, due_at: datetime) -> None:
        """The meter says that the auto-stop is near."""
        row = store.held(tx.session, task_id)
        if row is not None:
            before = store.view_of(row)
            self._conclude(tx, row, before, domain.warn_of_auto_stop(before, due_at, tx.now))

    def record_refusal(
        self, tx: Transaction, project: str, task_id: str, *, asked: str, by: str, error: ErrorBody
    ) -> None:
        """A move that was asked for and not made stands in the task's history."""
        row = store.mine(tx.session, project, task_id)
        store.save(tx, row, domain.refuse(store.view_of(row), asked=asked, by=by, error=error))
        tx.after_commit.append(self.wake_relay)

    # --- below --------------------------------------------------------------------------------------------------

    def _conclude(self, tx: Transaction, row: store.TaskRow, before: TaskView, decision: domain.Decision) -> None:
        """Save; when the task ended with this, let its kind register what came of it, and move those that wait."""
        task, facts = decision
        if domain.has_live_attempt(before) and not domain.has_live_attempt(task):
            pulses.end(tx, task.id)
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


def _json(text: str | None) -> object:
    if text is None:
        raise NotFound("the task has no spec", code="task_not_ready")
    return json.loads(text)
