"""Between worker and studio: the claim, the heartbeat, the report of an attempt; points and lines on their way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import CheckpointRef, EngineOutput, EngineSpec, Phase, TaskKind
from finery_contracts.model import Record, UtcTime
from finery_contracts.tasks import EndReason, TaskProgress


class ClaimRequest(Record):
    """``finery.rpc.studio.claim``: a worker with a free slot. The same request id gets the same answer."""

    request_id: str
    worker: str
    kinds: list[TaskKind]
    pool: str = "public"
    flavours: list[str] = Field(default_factory=lambda: ["cpu"], description="what this worker offers")
    free_slots: int | None = Field(default=None, ge=0, description="slots it has left; None: enough for anything")
    slots: int | None = Field(default=None, ge=0, description="slots it has when nothing runs; None: any number")


class Claim(Record):
    """What a worker is to do; every write lies under ``<task>/<attempt>/``."""

    task_id: str
    attempt: int
    project: str
    spec: EngineSpec
    resume_from: list[str] = Field(default_factory=list, description="store URLs of checkpoints, newest first")
    slots: int = Field(default=1, description="slots of the worker that it takes")
    traceparent: str | None = None
    progress_interval_s: float = 1.0


class ClaimAnswer(Record):
    """A claim, or nothing to do at the moment."""

    claim: Claim | None = None


class HeartbeatRequest(Record):
    """``finery.rpc.studio.heartbeat``: every two seconds while an attempt lives."""

    task_id: str
    attempt: int
    worker: str
    quiet_s: float = Field(default=0.0, description="since the last step, by the worker's monotonic clock")
    median_step_s: float | None = Field(default=None, description="of the newest steps; None before there are five")


class HeartbeatAnswer(Record):
    """``stop`` and ``pause``: save and end; ``abandon``: the fence moved on, end without a report."""

    command: Literal["continue", "pause", "stop", "abandon"]
    reason: str | None = None


class AttemptEnd(Record):
    """How it went; ``artefact`` is the store URL of the attempt's folder."""

    reason: EndReason
    output: EngineOutput | None = None
    error: ErrorBody | None = None
    artefact: str | None = None


class Report(Record):
    """A whole snapshot of an attempt; a later one (``seq``) implies the earlier."""

    task_id: str
    attempt: int
    project: str
    worker: str
    seq: int
    phase: Phase
    preparing_s: float = 0.0
    running_s: float = 0.0
    progress: TaskProgress = TaskProgress()
    checkpoints: list[CheckpointRef] = Field(default_factory=list[CheckpointRef])
    end: AttemptEnd | None = None
    traceparent: str | None = None


class MetricPoint(Record):
    """One point of a curve on the METRICS stream."""

    at: UtcTime
    attempt: int
    step: int
    total: int
    values: dict[str, float]


class LogLine(Record):
    """One line of an engine's log on the LOGS stream."""

    at: UtcTime
    attempt: int
    text: str
