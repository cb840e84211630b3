"""One attempt at one task, from claim to last report: engine files in, snapshots, curves, log lines and spans out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from finery_contracts.errors import EngineFailed, FineryError, Unavailable
from finery_contracts.jobs import CheckpointRef, Phase, Progress, Span
from finery_contracts.streams import LOGS, METRICS, REPORTS, log_subject, metric_subject, report_subject
from finery_contracts.tasks import EndReason, TaskProgress
from finery_contracts.work import AttemptEnd, Claim, HeartbeatAnswer, HeartbeatRequest, LogLine, MetricPoint, Report
from finery_kit.bus import ask
from finery_kit.db import utc_now
from finery_kit.executor import EngineProcess, Executor, kill, terminate
from finery_kit.job_folder import AttemptFolder
from finery_kit.pace import Pace
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.tail import Tails
from finery_kit.telemetry import current_traceparent, export_engine_span, span_from

if TYPE_CHECKING:
    from finery_kit.worker import Engine

log = logging.getLogger("finery.attempt")
HEARTBEAT_S = 2.0
CUT_OFF_S = 120.0
LOOK_S = 0.1
SHIP_S = 0.25
TELL_AGAIN_S = 10.0
LEAVE_S = 5.0
MAX_REPORT_BYTES = 512 * 2**10


@dataclass
class Attempt:
    """What a claim became."""

    claim: Claim
    engine: Engine
    service: Service
    executor: Executor
    storage: Storage
    folder: Path
    worker: str
    _seq: int = 0
    _phase: Phase = Phase.PREPARING
    _claimed_at: float = field(default_factory=time.monotonic)
    _started_at: float = 0.0
    _running_at: float | None = None
    _ended_at: float | None = None
    _pace: Pace = field(default_factory=Pace)
    _progress: TaskProgress = field(default_factory=TaskProgress)
    _checkpoints: list[CheckpointRef] = field(default_factory=list[CheckpointRef])
    _process: EngineProcess | None = None
    _files: AttemptFolder | None = None
    _stop_reason: str | None = None  # stop | leave | abandon | cut_off
    _traceparent: str | None = None
    _ended: bool = False
    _reported_at: float = 0.0

    async def run(self) -> None:
        """Until the last report is acknowledged; never raises."""
        with span_from(
            self.claim.traceparent, self.service.name, f"attempt {self.claim.spec.kind}", kind=SpanKind.CONSUMER,
            task_id=self.claim.task_id, attempt=self.claim.attempt,
        ):  # fmt: skip
            self._traceparent = current_traceparent()
            try:
                end = await self._work()
            except FineryError as fault:
                end = AttemptEnd(reason=EndReason.CRASHED, error=fault.body)
            except Exception as fault:
                log.exception("attempt_failed", extra={"task_id": self.claim.task_id})
                end = AttemptEnd(reason=EndReason.CRASHED, error=EngineFailed(repr(fault)).body)
            if self._stop_reason != "abandon":
                await self._hand_over(end)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def leave(self) -> None:
        """The worker goes: save, and let the attempt end as lost without blame."""
        self._stop("leave")

    async def _work(self) -> AttemptEnd:
        files = AttemptFolder(
            self.claim, self.folder, self.storage, self.executor.site_packages(self.engine.environment)
        )
        self._files = files
        await asyncio.to_thread(files.prepare, self._traceparent)
        process = await self.executor.start(
            self.engine.module, self.folder, environment=self.engine.environment, warm=self.engine.warm
        )
        self._process, self._started_at = process, time.monotonic()
        if self._stop_reason is not None:
            self._end_process()
        heart = asyncio.create_task(self._heartbeat())
        following = asyncio.create_task(self._follow())
        try:
            status = await process.wait()
        finally:
            self._ended_at, self._ended = time.monotonic(), True
            heart.cancel()
            await asyncio.gather(heart, following, return_exceptions=True)
        return await asyncio.to_thread(files.conclude, status, told_to=self._stop_reason)

    # --- while it runs ------------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        heard_at = time.monotonic()
        while not self._ended:  # before Python 3.12 wait_for, which nats-py uses, can lose a cancellation
            answer = await self._beat()
            if answer is not None:
                heard_at = time.monotonic()
                if answer.command != "continue":
                    self._stop("abandon" if answer.command == "abandon" else "stop")
            elif time.monotonic() - heard_at > CUT_OFF_S:
                self._stop("cut_off")
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat(self) -> HeartbeatAnswer | None:
        """One sign of life; None when the studio did not answer, or could not."""
        beat = HeartbeatRequest(
            task_id=self.claim.task_id, attempt=self.claim.attempt, worker=self.worker,
            quiet_s=self._pace.quiet_s, median_step_s=self._pace.median_step_s,
        )  # fmt: skip
        try:
            return await ask(
                self.service.client, "studio", "heartbeat", beat, HeartbeatAnswer, timeout_s=HEARTBEAT_S, traced=False
            )
        except FineryError:
            return None

    async def _follow(self) -> None:
        tails = Tails(self.folder)
        while not self._ended:
            with contextlib.suppress(Unavailable, OSError):  # the bus or the disk: what is unread is read next time
                await self._look(tails)
            await asyncio.sleep(LOOK_S if self._phase is Phase.PREPARING else SHIP_S)
        with contextlib.suppress(Unavailable, OSError):
            await self._look(tails)

    async def _look(self, tails: Tails) -> None:
        """Read what is new and pass it on: points and lines to their streams, a snapshot to the studio."""
        lines = [_parsed(line) for line in tails.progress.read()]
        news = [line for line in lines if line is not None]
        urgent = bool(news) and await self._take_in(news)
        for line in tails.spans.read():
            with contextlib.suppress(ValidationError):
                export_engine_span(self.service.name, Span.model_validate_json(line))
        if urgent or (news and time.monotonic() - self._reported_at >= self.claim.progress_interval_s):
            await self._report(None)
        await self._ship_points(news)
        await self._ship_log(tails.log.read())

    async def _take_in(self, news: list[Progress]) -> bool:
        before = (self._phase, len(self._checkpoints))
        for line in news:
            self._phase = line.phase
            self._pace.seen(line.phase, line.step, line.message)
            merged = {**self._progress.metrics, **line.metrics}
            self._progress = TaskProgress(
                step=line.step, total=line.total, message=line.message, eta_s=line.eta_s, metrics=merged
            )
            if line.checkpoint is not None:
                assert self._files is not None
                kept = await asyncio.to_thread(self._files.keep_checkpoint, line.checkpoint)
                self._checkpoints += [kept] if kept is not None else []
        if self._phase is Phase.RUNNING and self._running_at is None:
            # The engine's own clock says when it began to run; reading its files comes a moment later.
            began = min((n.at for n in news if n.phase is Phase.RUNNING), default=0.0)
            self._running_at = min(self._started_at + began, self._ended_at or time.monotonic())
        return before != (self._phase, len(self._checkpoints))

    async def _ship_points(self, news: list[Progress]) -> None:
        points = [
            MetricPoint(at=utc_now(), attempt=self.claim.attempt, step=n.step, total=n.total, values=n.metrics)
            for n in news
            if n.metrics
        ]
        if points:
            body = json.dumps([point.model_dump(mode="json") for point in points]).encode()
            await self._publish(metric_subject(self.claim.project, self.claim.task_id), body, METRICS.name)

    async def _ship_log(self, lines: list[str]) -> None:
        entries = [LogLine(at=utc_now(), attempt=self.claim.attempt, text=line[:4000]) for line in lines]
        for start in range(0, len(entries), 100):
            body = json.dumps([entry.model_dump(mode="json") for entry in entries[start : start + 100]]).encode()
            await self._publish(log_subject(self.claim.project, self.claim.task_id), body, LOGS.name)

    async def _publish(self, subject: str, body: bytes, stream: str, headers: dict[str, str] | None = None) -> None:
        try:
            await self.service.jetstream.publish(subject, body, stream=stream, headers=headers, timeout=5)
        except Exception as fault:  # nats-py raises half a dozen kinds when the broker is away
            raise Unavailable(f"the bus does not take {stream} at the moment") from fault

    # --- stopping -----------------------------------------------------------------------------------------------

    def _stop(self, why: str) -> None:
        if self._stop_reason is None:
            self._stop_reason = why
            self._end_process()

    def _end_process(self) -> None:
        if self._process is None:
            return
        if self._stop_reason == "abandon":
            kill(self._process)
        else:
            self._terminating = asyncio.create_task(terminate(self._process))

    # --- reporting ----------------------------------------------------------------------------------------------

    async def _hand_over(self, end: AttemptEnd) -> None:
        """Report the end until the studio has taken it: what the bus acknowledged may still be lost with its disk."""
        await self._report(end)
        told_at, wait_s = time.monotonic(), 0.05
        while True:
            answer = await self._beat()
            if answer is not None and answer.command == "abandon":  # this attempt is over for the studio
                return
            if self._stop_reason == "leave" and time.monotonic() - told_at > LEAVE_S:
                return
            if time.monotonic() - told_at > TELL_AGAIN_S:
                await self._report(end)
                told_at = time.monotonic()
            await asyncio.sleep(wait_s)
            wait_s = min(HEARTBEAT_S, 2 * wait_s)

    async def _report(self, end: AttemptEnd | None) -> None:
        """Publish a snapshot; the last one is repeated until the bus has it."""
        self._seq += 1
        self._reported_at = time.monotonic()
        report = self._snapshot(end)
        body = report.model_dump_json().encode()
        if len(body) > MAX_REPORT_BYTES:
            log.error("report_too_large", extra={"task_id": report.task_id, "size_bytes": len(body)})
            if end is None:
                return
            report = self._snapshot(_without_output(end, len(body)))
            body = report.model_dump_json().encode()
        headers = {
            "Nats-Msg-Id": f"{report.task_id}:{report.attempt}:{report.seq}",
            "traceparent": self._traceparent or "",
        }
        while True:
            try:
                await self._publish(report_subject(report.task_id), body, REPORTS.name, headers)
                return
            except Unavailable:
                if end is None:
                    return
                await asyncio.sleep(1)

    def _snapshot(self, end: AttemptEnd | None) -> Report:
        now = self._ended_at or time.monotonic()
        started = self._running_at if self._running_at is not None else now
        return Report(
            task_id=self.claim.task_id, attempt=self.claim.attempt, project=self.claim.project, worker=self.worker,
            seq=self._seq, phase=self._phase, preparing_s=started - self._claimed_at, running_s=now - started,
            progress=self._progress, checkpoints=self._checkpoints, end=end, traceparent=self._traceparent,
        )  # fmt: skip


def _without_output(end: AttemptEnd, size_bytes: int) -> AttemptEnd:
    """A result that no message can carry is the engine's fault; all of it lies in the artefact."""
    error = EngineFailed(
        f"the engine's result has {size_bytes:,} bytes, over the {MAX_REPORT_BYTES:,} that a report may have; "
        "it lies in the task's artefact",
        code="result_too_large",
    )
    return AttemptEnd(reason=EndReason.CRASHED, error=error.body, artefact=end.artefact)


def _parsed(line: str) -> Progress | None:
    try:
        return Progress.model_validate_json(line)
    except ValidationError:
        return None
