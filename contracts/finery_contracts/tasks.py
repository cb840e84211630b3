"""Tasks: their states, what is told of them, and the conversation between a worker and the studio."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import CheckpointRef, EngineOutput, EngineSpec, Phase, TaskKind
from finery_contracts.model import Record, UtcTime


class TaskState(StrEnum):
    """SPEC TA1: never backwards, never twice."""

    CREATED = "created"
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TERMINATED = "terminated"

    @property
    def ended(self) -> bool:
        """True for a state that nothing leaves."""
        return self in ENDED


ENDED = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TERMINATED})


class EndReason(StrEnum):
    """Why an attempt ended."""

    SUCCEEDED = "succeeded"
    USER_MISTAKE = "user_mistake"
    TERMINATED = "terminated"
    CRASHED = "crashed"
    LOST = "lost"
    STALE = "stale"

    @property
    def billed(self) -> bool:
        """SPEC BI1: what failed by our fault costs nothing."""
        return self in {EndReason.SUCCEEDED, EndReason.USER_MISTAKE, EndReason.TERMINATED}


class NotifyChoice(Record):
    """SPEC NO2: which facts of this task go to which topic; an empty list means all of them."""

    topic: str = Field(description="topic name or id")
    events: list[str] = Field(default_factory=list, description="such as succeeded, failed, deployment.running")


class TaskProgress(Record):
    """The newest picture of a running attempt."""

    step: int = 0
    total: int = 0
    message: str | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class AttemptView(Record):
    """One try at a task; ``number`` is the fence."""

    number: int
    worker: str
    state: Literal["claimed", "preparing", "running", "ended"]
    reason: EndReason | None = None
    error: ErrorBody | None = None
    claimed_at: UtcTime
    ended_at: UtcTime | None = None
    preparing_s: float = 0.0
    running_s: float = 0.0


class TaskView(Record):
    """A task's whole public state: the data of every task fact."""

    id: str
    project: str
    kind: TaskKind
    name: str
    description: str = ""
    state: TaskState
    phase: Literal["waiting", "retrying", "paused"] | None = None
    why_waiting: str | None = None
    version: int
    created_by: str
    pool: str = "public"
    flavour: str = "cpu"
    instances: int = 1
    created_at: UtcTime
    queued_at: UtcTime | None = None
    started_at: UtcTime | None = None
    ended_at: UtcTime | None = None
    waits_for: list[str] = Field(default_factory=list)
    request: dict[str, Any] = Field(default_factory=dict, description="what was asked for, as it was accepted")
    progress: TaskProgress = TaskProgress()
    checkpoints: list[CheckpointRef] = Field(default_factory=list[CheckpointRef])
    attempts: list[AttemptView] = Field(default_factory=list[AttemptView])
    output: EngineOutput | None = None
    artefact: str | None = Field(default=None, description="store URL of what the attempt left")
    result: dict[str, str] = Field(default_factory=dict, description="ids of what came of it: dataset, model, …")
    error: ErrorBody | None = None
    notify: NotifyChoice | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class TaskFact(Event):
    """A fact about a task."""

    NOUN = "task"
    SAID_BY = "studio"
    data: TaskView


class TaskCreated(TaskFact):
    """A task was accepted; it may wait for others (``waits_for``)."""

    FACT = "created"


class TaskQueued(TaskFact):
    """Everything the task needs is there; it waits for a worker."""

    FACT = "queued"


class TaskPreparing(TaskFact):
    """A worker claimed the task and prepares it; nothing is billed yet."""

    FACT = "preparing"


class TaskRunning(TaskFact):
    """The engine works; from here on running time is billed."""

    FACT = "running"


class TaskRetrying(TaskFact):
    """An attempt was lost or crashed; the task waits for the next one."""

    FACT = "retrying"


class RunInterval(Record):
    """What billing counts. Key: (task, attempt, n). Length: the worker's monotonic running time."""

    n: int = 1
    attempt: int
    started_at: UtcTime = Field(description="studio's claim time plus the worker's preparing time")
    running_s: float
    reason: EndReason
    billed: bool


class AttemptEndedData(Record):
    """The attempt's end, with the task as it is then."""

    task: TaskView
    attempt: AttemptView
    interval: RunInterval


class TaskAttemptEnded(Event):
    """An attempt ended, for whatever reason; its run interval is what billing counts."""

    NOUN = "task"
    FACT = "attempt_ended"
    SAID_BY = "studio"
    data: AttemptEndedData


class TaskSucceeded(TaskFact):
    """The task is done; ``result`` names what came of it."""

    FACT = "succeeded"


class TaskFailed(TaskFact):
    """The task failed; ``error`` says why and what to do."""

    FACT = "failed"


class TaskTerminated(TaskFact):
    """Someone stopped the task; the last checkpoint is kept."""

    FACT = "terminated"


# --- between worker and studio -------------------------------------------------------------------------------------


class ClaimRequest(Record):
    """``finery.rpc.studio.claim``: a worker with a free slot. The same request id gets the same answer."""

    request_id: str
    worker: str
    kinds: list[TaskKind]
    pool: str = "public"


class Claim(Record):
    """What a worker is to do; every write lies under ``<task>/<attempt>/``."""

    task_id: str
    attempt: int
    project: str
    spec: EngineSpec
    resume_from: str | None = Field(default=None, description="store URL of a verified checkpoint")
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


class HeartbeatAnswer(Record):
    """``stop``: end and save; ``abandon``: the fence moved on, end without a report."""

    command: Literal["continue", "stop", "abandon"]
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


AnyTaskFact = Annotated[
    TaskCreated
    | TaskQueued
    | TaskPreparing
    | TaskRunning
    | TaskRetrying
    | TaskAttemptEnded
    | TaskSucceeded
    | TaskFailed
    | TaskTerminated,
    Field(),
]
