"""Brings every deployment to where it is wanted: looks, takes one short step, looks again.

Each deployment is stepped by itself, so one that hangs holds up no other. It keeps nothing that a restart would lose,
save how long each instance runs since it was last written down. It refuses to touch what is stored other than through
``lifecycle``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from finery_contracts.deployments import DeploymentState
from finery_contracts.errors import ErrorBody, FineryError
from finery_contracts.jobs import ServeJob, ServeReady
from finery_deployer import domain, lifecycle, store
from finery_deployer.adapters import InstanceRunner
from finery_deployer.domain import Wanted
from finery_deployer.lifecycle import Death
from finery_deployer.settings import DeployerSettings
from finery_deployer.store import DeploymentRow, InstanceRow, InstanceState
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.storage import Storage

log = logging.getLogger("finery.deployer")
T = TypeVar("T")
MOVING_S = 0.1
MEASURE_EVERY_S = 30.0


@dataclass
class Supervisor:
    """One a machine."""

    database: Database
    runner: InstanceRunner
    storage: Storage
    settings: DeployerSettings
    on_change: Callable[[], None]
    clock: Callable[[], datetime] = utc_now
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _steps: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    _stopwatch: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    _heard: dict[str, float] = field(default_factory=dict[str, float])
    _asked: set[str] = field(default_factory=set[str])
    _measured_at: float = field(default_factory=time.monotonic)
    _leaving: bool = False

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        await self.runner.open()
        try:
            while True:
                self._woken.clear()
                moving = await self.look()
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of the wait.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MOVING_S if moving else self.settings.deployer_interval_s):
                        await self._woken.wait()
        finally:
            steps = list(self._steps.values())
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
            await self.runner.close()

    async def look(self) -> bool:
        """Begin a step for every deployment that does not rest and has none under way; True while one moves."""
        pairs = await self.database.read(store.unsettled)
        for row, instance in pairs:
            if row.id not in self._steps:
                self._steps[row.id] = asyncio.create_task(self._step_safely(row, instance), name=f"step:{row.id}")
        if self._stopwatch and time.monotonic() - self._measured_at >= MEASURE_EVERY_S:
            await self._measure()
        return any(row.state != DeploymentState.RUNNING for row, _ in pairs)

    async def hold(self) -> None:
        """Start nothing any more: the deployer leaves. What has run so far is written down."""
        self._leaving = True
        await self._measure()

    async def leave(self) -> None:
        """Stop all instances in good order; what a person deployed runs again when the deployer is back."""
        await self.hold()
        pairs = await self.database.read(store.unsettled)
        for row, _ in pairs:
            wanted = Wanted.STOPPED if row.trial or row.wanted == Wanted.STOPPED else Wanted.RUNNING
            await self._write(lambda tx, row=row, wanted=wanted: lifecycle.rest(tx, row.id, wanted=wanted))
        self.wake()
        limit = self.settings.deployer_kill_after_s + self.settings.deployer_drain_grace_s + 10
        until = time.monotonic() + limit
        while time.monotonic() < until:
            if all(row.state != DeploymentState.STOPPING for row, _ in await self.database.read(store.unsettled)):
                return
            await asyncio.sleep(MOVING_S)

    async def _step_safely(self, row: DeploymentRow, instance: InstanceRow | None) -> None:
        try:
            await self._step(row, instance)
        except Exception:  # the edge of one step: the next look tries again
            log.exception("step_failed", extra={"deployment": row.id})
        finally:
            self._steps.pop(row.id, None)

    async def _step(self, row: DeploymentRow, instance: InstanceRow | None) -> None:
        state = DeploymentState(row.state)
        if instance is None:
            await self._step_without_instance(row, state)
        elif instance.state == InstanceState.DRAINING:
            await self._watch_drain(instance)
        elif state is DeploymentState.STOPPING:
            await self._drain(row, instance)
        elif instance.state == InstanceState.STARTING:
            await self._watch_start(instance)
        else:
            await self._watch_running(row, instance)

    async def _step_without_instance(self, row: DeploymentRow, state: DeploymentState) -> None:
        if state is DeploymentState.STOPPING:
            await self._write(lambda tx: lifecycle.settle(tx, row.id))
        elif state is DeploymentState.STOPPED and not self._leaving:
            await self._write(lambda tx: lifecycle.resume(tx, row.id))
        elif state is DeploymentState.DEPLOYING and not self._leaving:
            await self._launch(row)

    async def _launch(self, row: DeploymentRow) -> None:
        begun = await self._write(lambda tx: lifecycle.begin_instance(tx, row.id))
        if begun is None:
            return
        row, instance = begun
        try:
            started = await self.runner.start(self._job(row, instance))
        except FineryError as fault:
            await self._ended(instance, Death(fault.body, final=not fault.retryable))
            return
        except OSError as fault:
            error = ErrorBody(
                code="instance_not_started",
                message=f"the engine of {row.name} could not be started: {fault}; see the deployer's log",
            )
            await self._ended(instance, Death(error))
            return
        log.info("instance_started", extra={"deployment": row.id, "instance": instance.id, "pid": started.pid})
        await self._write(lambda tx: lifecycle.spawned(tx, instance.id, pid=started.pid, born=started.born))

    def _job(self, row: DeploymentRow, instance: InstanceRow) -> ServeJob:
        view = row.view
        return ServeJob(
            deployment_id=row.id, instance_id=instance.id, model=str(self.storage.path(row.weights)),
            adapter=str(self.storage.path(row.adapter)) if row.adapter else None,
            served_name=domain.served_name(view, row.openai_name), max_length=view.max_length, token=instance.token,
            threads=self.settings.deployer_threads, traceparent=row.traceparent,
        )  # fmt: skip

    async def _watch_start(self, instance: InstanceRow) -> None:
        ready = self.runner.ready(instance.id)
        if ready is not None and self.runner.alive(ready.pid, instance.born):
            url = f"http://127.0.0.1:{ready.port}"
            if await self.runner.status(url, instance.token) is not None:
                await self._serves(instance, ready, url)
                return
        if instance.pid is not None and not self.runner.alive(instance.pid, instance.born):
            await self._died(instance, "ended before it was ready")
        elif self.clock() > instance.created_at + timedelta(seconds=self.settings.deployer_start_timeout_s):
            self._kill(instance)
            await self._died(instance, f"was not ready within {self.settings.deployer_start_timeout_s:g} s")

    async def _serves(self, instance: InstanceRow, ready: ServeReady, url: str) -> None:
        now = time.monotonic()
        began = await self._write(
            lambda tx: lifecycle.serving(
                tx, instance.id, url=url, pid=ready.pid, born=instance.born, max_length=ready.max_length
            )
        )
        if began:
            self._heard[instance.id] = now
            self._stopwatch[instance.id] = (0.0, now)

    async def _watch_running(self, row: DeploymentRow, instance: InstanceRow) -> None:
        if not self._alive(instance):
            await self._died(instance, "ended by itself")
            return
        self._adopt(instance)
        status = await self.runner.status(instance.url or "", instance.token)
        if status is None:
            await self._judge_silence(instance)
            return
        self._heard[instance.id] = time.monotonic()
        if domain.is_idle(status, row.view.idle_stop_s):
            log.info("deployment_idle", extra={"deployment": row.id, "idle_s": status.idle_s})
            await self._write(lambda tx: lifecycle.rest(tx, row.id, wanted=Wanted.STOPPED))

    async def _judge_silence(self, instance: InstanceRow) -> None:
        silent_s = time.monotonic() - self._heard[instance.id]
        if silent_s >= self.settings.deployer_unhealthy_s:
            self._kill(instance)
            await self._died(instance, f"did not answer for {silent_s:.0f} s")

    async def _drain(self, row: DeploymentRow, instance: InstanceRow) -> None:
        if not self._alive(instance):
            await self._ended(instance, None)
            return
        self._adopt(instance)
        grace_s = self.settings.deployer_drain_grace_s
        if not await self.database.write(lambda tx: lifecycle.may_drain(tx, row.id, grace_s=grace_s)):
            return
        await self._write(lambda tx: lifecycle.draining(tx, instance.id))
        self._ask_to_leave(instance)

    async def _watch_drain(self, instance: InstanceRow) -> None:
        if not self._alive(instance):
            await self._ended(instance, None)
            return
        self._adopt(instance)
        if self.clock() > (instance.drained_at or instance.created_at) + timedelta(
            seconds=self.settings.deployer_kill_after_s
        ):
            self._kill(instance)
        elif instance.id not in self._asked:  # a deployer that died had written "draining", perhaps not sent it
            self._ask_to_leave(instance)

    def _ask_to_leave(self, instance: InstanceRow) -> None:
        pid = self._pid(instance)
        if pid is not None:
            self._asked.add(instance.id)
            self.runner.drain(pid, instance.born)

    def _pid(self, instance: InstanceRow) -> int | None:
        """Also of an instance whose deployer died before it could write the pid down."""
        ready = self.runner.ready(instance.id) if instance.pid is None else None
        return ready.pid if ready else instance.pid

    def _alive(self, instance: InstanceRow) -> bool:
        pid = self._pid(instance)
        return pid is not None and self.runner.alive(pid, instance.born)

    def _kill(self, instance: InstanceRow) -> None:
        pid = self._pid(instance)
        if pid is not None:
            self.runner.kill(pid, instance.born)

    async def _died(self, instance: InstanceRow, how: str) -> None:
        refusal = self.runner.refusal(instance.id)
        words = self.runner.last_words(instance.id)
        error = refusal or ErrorBody(
            code="instance_died",
            message=f"instance {instance.id} {how}; start the deployment again once the cause is mended. "
            + (f"The last lines of its log:\n{words}" if words else "It left no log."),
        )
        log.warning("instance_died", extra={"instance": instance.id, "how": how, "code": error.code})
        await self._ended(instance, Death(error, final=refusal is not None))

    async def _ended(self, instance: InstanceRow, death: Death | None) -> None:
        running_s = self._running_s(instance)
        limit = lifecycle.RestartLimit(self.settings.deployer_max_restarts, self.settings.deployer_restart_window_s)
        await self._write(lambda tx: lifecycle.ended(tx, instance.id, running_s=running_s, death=death, limit=limit))
        self._stopwatch.pop(instance.id, None)
        self._heard.pop(instance.id, None)
        self._asked.discard(instance.id)
        self.runner.clear(instance.id)

    def _adopt(self, instance: InstanceRow) -> None:
        """An instance of an earlier deployer: what it ran meanwhile is told by the wall clock, once."""
        if instance.id in self._stopwatch:
            return
        gap = (self.clock() - instance.seen_at).total_seconds() if instance.seen_at else 0.0
        self._stopwatch[instance.id] = (instance.measured_s + max(0.0, gap), time.monotonic())
        self._heard[instance.id] = time.monotonic()
        log.info("instance_adopted", extra={"instance": instance.id})

    def _running_s(self, instance: InstanceRow) -> float:
        if instance.started_at is None:
            return 0.0
        carried_s, since = self._stopwatch.get(instance.id, (instance.measured_s, None))
        return carried_s + (time.monotonic() - since if since is not None else 0.0)

    async def _measure(self) -> None:
        self._measured_at = time.monotonic()
        now = {key: carried_s + self._measured_at - since for key, (carried_s, since) in self._stopwatch.items()}
        await self.database.write(lambda tx: lifecycle.measured(tx, now))

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        answer = await self.database.write(work)
        self.on_change()
        return answer
