"""Tasks: their states, what is told of them, and the conversation between a worker and the studio."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import CheckpointRef, EngineOutput, TaskKind
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
    AUTO_STOP = "auto_stop"
    BUDGET = "budget"
    PAUSED = "paused"
    CRASHED = "crashed"
    LOST = "lost"
    HUNG = "hung"
    PREEMPTED = "preempted"
    STALE = "stale"

    @property
    def billed(self) -> bool:
        """SPEC BI1: what failed by our fault costs nothing."""
        return self in BILLED


BILLED = frozenset(
    {
        EndReason.SUCCEEDED, EndReason.USER_MISTAKE, EndReason.TERMINATED, EndReason.AUTO_STOP, EndReason.BUDGET,
        EndReason.PAUSED,
    }
)  # fmt: skip


class StopReason(StrEnum):
    """Why a running attempt is told to stop; its last checkpoint is kept whatever the reason."""

    TERMINATE = "terminate"
    AUTO_STOP = "auto_stop"
    BUDGET = "budget"
    PAUSE = "pause"
    HUNG = "hung"


class NotifyChoice(Record):
    """SPEC NO2: which facts of this task go to which topic; an empty list means all of them."""

    topic: str = Field(description="topic name or id")
    events: list[str] = Field(default_factory=list, description="such as succeeded, failed, deployment.running")


class Note(Record):
    """A remark on a task's page."""

    at: UtcTime
    code: str
    text: str


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
    price: str | None = Field(default=None, description="the flavour's name in the price list; None: its own name")
    instances: int = 1
    priority: int = 50
    place: int | None = Field(default=None, description="in the queue of its pool, 1 is next; filled in when read")
    auto_stop_s: int | None = None
    on_hang: Literal["tell", "retry"] = "tell"
    keep_logs: str | None = None
    stop_reason: StopReason | None = Field(default=None, description="it was told to stop, and for this reason")
    running_s: float = Field(default=0.0, description="of all attempts together")
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
    notes: list[Note] = Field(default_factory=list[Note], description="the newest twenty")
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
    """The engine of an attempt works; from here on running time is billed."""

    FACT = "running"


class TaskRetrying(TaskFact):
    """An attempt was lost or crashed; the task waits for the next one."""

    FACT = "retrying"


class TaskPaused(TaskFact):
    """It rests, its last checkpoint is kept; nothing is billed until it is resumed."""

    FACT = "paused"


class TaskResumed(TaskFact):
    """It goes on: it waits for a worker again."""

    FACT = "resumed"


class TaskSuspectedHang(TaskFact):
    """The engine made no step for much longer than its steps take; the newest note says how long."""

    FACT = "suspected_hang"


class TaskAutoStopSoon(TaskFact):
    """Its auto-stop is near; the newest note says when."""

    FACT = "auto_stop_soon"


class TaskDeleted(TaskFact):
    """The task is gone; its history stays in the event log."""

    FACT = "deleted"


class MoveRefusedData(Record):
    """The task as it is and stays, what was asked of it, and why not."""

    task: TaskView
    asked: str = Field(description="such as pause, resume, terminate, delete")
    by: str
    error: ErrorBody


class TaskMoveRefused(Event):
    """Somebody asked for a move that the task's state does not allow."""

    NOUN = "task"
    FACT = "move_refused"
    SAID_BY = "studio"
    data: MoveRefusedData


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
