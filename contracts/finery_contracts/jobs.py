"""The files between a service and its engine: what a job folder holds, and nothing about how it got there.

    JOB_DIR/job.json         EngineJob: what to do; every path in it is local and absolute
            progress.jsonl   Progress lines, appended by the engine
            spans.jsonl      Span lines, appended by the engine
            log.txt          standard output and error, captured by the executor
            checkpoints/     checkpoint-<step>/ folders, published by rename, each with manifest.json
            out/             artefacts
            result.json      JobResult, last, by rename

Exit status: 0 done (result.json says succeeded or terminated), 2 the user's mistake (result.json carries the coded
error), anything else a crash. SIGTERM means: save and leave with status 0 and ``terminated``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from finery_contracts.datasets import DataFormat, DataKind
from finery_contracts.errors import ErrorBody
from finery_contracts.gallery import Expected
from finery_contracts.judging import JudgeOutput, JudgeSpec
from finery_contracts.kinds import TaskKind as TaskKind
from finery_contracts.merging import MergeOutput as MergeOutput
from finery_contracts.merging import MergeSpec as MergeSpec
from finery_contracts.model import Record
from finery_contracts.preparing import CountOutput, CountSpec, PrepareOutput, PrepareSpec
from finery_contracts.sources import FetchedBytes, Origin
from finery_contracts.tuning import TuneParameters
from finery_contracts.weights import AllowedCode, Finding, Repair, Sha256


class IngestSpec(Record):
    """Read files of people's data, report every bad record, write the canonical form."""

    kind: Literal[TaskKind.INGEST] = TaskKind.INGEST
    source: str = Field(default="", description="path of the file as it was uploaded")
    origin: Origin | None = Field(default=None, description="what is fetched first, instead of ``source``")
    filename: str = Field(description="the name the user gave it")
    format: DataFormat = "auto"
    bad_records: Literal["strict", "skip"] = "strict"
    bad_ceiling: float = Field(default=0.01, ge=0, le=1, description="share of bad records that skip still accepts")
    max_bytes: int = 100 * 2**30


class ImportSpec(Expected):
    """Make a model folder of ours (safetensors, config, tokenizer) from a folder or a GGUF file."""

    kind: Literal[TaskKind.IMPORT] = TaskKind.IMPORT
    source: str = Field(default="", description="folder with weights; or a folder that holds one .gguf file")
    origin: Origin | None = Field(default=None, description="a folder that is fetched first, instead of ``source``")
    gguf_file: str | None = Field(default=None, description="name of the GGUF file inside the folder")
    family: str | None = None
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="known repairs of the gallery: eos_token, pad_token, model_max_length"
    )
    apply_repairs: list[str] = Field(default_factory=list, description="ids of proposed repairs that were agreed to")
    allowed_code: AllowedCode = Field(default_factory=list[Sha256])


class ValidateSpec(Expected):
    """Check a model folder; nothing of it is run, except files whose sha256 stands in ``allowed_code``."""

    kind: Literal[TaskKind.VALIDATE] = TaskKind.VALIDATE
    model: str = Field(description="path of the model folder")
    generate: bool = Field(default=True, description="a short generation as proof of life")
    depth: Literal["headers", "full"] = Field(
        default="full", description="headers: files, metadata and headers alone, in milliseconds for any size"
    )
    apply_repairs: list[str] = Field(default_factory=list, description="ids of repairs that the judged copy is to have")
    allowed_code: AllowedCode = Field(default_factory=list[Sha256])


class TuneSpec(Record):
    """Tune a model on a dataset."""

    kind: Literal[TaskKind.TUNE] = TaskKind.TUNE
    model: str = Field(description="path of the base model's folder")
    adapter: str | None = Field(default=None, description="path of an adapter to continue from")
    train: str = Field(description="path of the canonical Parquet file")
    validation: str | None = Field(default=None, description="path of the canonical Parquet file")
    parameters: TuneParameters


class EvaluateSpec(Record):
    """Answer every record of a set and compare with its last assistant message."""

    kind: Literal[TaskKind.EVALUATE] = TaskKind.EVALUATE
    model: str
    adapter: str | None = None
    dataset: str
    metric: Literal["exact_match", "accuracy"] = "accuracy"
    max_tokens: int = Field(default=16, ge=1, le=4096)
    batch_size: int = Field(default=16, ge=1, le=256)


EngineSpec = Annotated[
    IngestSpec | PrepareSpec | CountSpec | ImportSpec | ValidateSpec | TuneSpec | EvaluateSpec | JudgeSpec | MergeSpec,
    Field(discriminator="kind"),
]


class EngineJob(Record):
    """job.json."""

    task_id: str
    attempt: int
    project_id: str
    spec: EngineSpec
    resume_from: list[str] = Field(
        default_factory=list, description="checkpoint folders, newest first; the first that verifies is taken"
    )
    traceparent: str | None = None
    threads: int = Field(default=2, ge=1)


class Phase(StrEnum):
    """Where an attempt stands; only running time is billed."""

    PREPARING = "preparing"
    RUNNING = "running"


class CheckpointRef(Record):
    """A checkpoint whose manifest was written and verified."""

    step: int
    path: str = Field(description="folder name under checkpoints/")
    metrics: dict[str, float] = Field(default_factory=dict)


class Progress(Record):
    """One line of progress.jsonl: a whole picture, the newest replaces the ones before."""

    at: float = Field(description="seconds since the engine started, monotonic")
    phase: Phase
    step: int = 0
    total: int = 0
    message: str | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="loss, learning_rate, tokens_per_s, …")
    checkpoint: CheckpointRef | None = Field(default=None, description="set on the line that announces one")


class Span(Record):
    """One line of spans.jsonl, in the terms of OpenTelemetry; the worker exports it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = Field(default_factory=dict)
    error: str | None = None


class BadRecord(Record):
    """A record that cannot be used, and what would make it usable."""

    file: str
    line: int | None = Field(default=None, description="1-based line of a text file")
    row: int | None = Field(default=None, description="1-based row of a table, the header is row 1")
    record: int | None = Field(default=None, description="1-based place in a .json array or a Parquet file")
    field: str | None = Field(default=None, description="such as messages[1].content")
    code: str
    reason: str
    remedy: str


class IngestOutput(Record):
    """What ingest found. out/: records.parquet, report.jsonl (every BadRecord), stats.json."""

    kind: Literal[TaskKind.INGEST] = TaskKind.INGEST
    format: str
    data_kind: DataKind = Field(default=DataKind.MESSAGES, description="what the records are made for")
    records: int
    bad_records: int
    errors: list[BadRecord] = Field(default_factory=list[BadRecord], description="the first 1,000")
    warnings: list[str] = Field(default_factory=list)
    characters: int = 0
    content_sha256: str = Field(description="of records.parquet")
    fetched: FetchedBytes | None = Field(default=None, description="of a source that had to be fetched")


class ImportOutput(Record):
    """What was made. out/model/ is the folder."""

    kind: Literal[TaskKind.IMPORT] = TaskKind.IMPORT
    architecture: str
    parameters: int
    size_bytes: int
    dtype: str
    max_length: int
    fetched: FetchedBytes | None = Field(default=None, description="of a folder that had to be fetched")
    repairs: list[Repair] = Field(default_factory=list[Repair], description="those that were agreed to and made")


class ValidateOutput(Record):
    """The report of one validation; any error-severity finding fails the task."""

    kind: Literal[TaskKind.VALIDATE] = TaskKind.VALIDATE
    findings: list[Finding] = Field(default_factory=list[Finding])
    facts: dict[str, str | int | float | bool] = Field(default_factory=dict)
    repairs: list[Repair] = Field(default_factory=list[Repair], description="what may be agreed to with apply_repairs")


class TuneOutput(Record):
    """What tuning left. out/adapter/ is a PEFT adapter folder."""

    kind: Literal[TaskKind.TUNE] = TaskKind.TUNE
    steps: int
    trained_tokens: int
    metrics: dict[str, float] = Field(default_factory=dict, description="final train_loss, validation_loss, …")
    checkpoints: list[CheckpointRef] = Field(default_factory=list[CheckpointRef])


class ClassScore(Record):
    """One row of the per-class table."""

    label: str
    support: int
    precision: float
    recall: float
    f1: float


class EvaluateOutput(Record):
    """What an evaluation measured. out/samples.jsonl keeps every sample: prompt, expected, answer, correct."""

    kind: Literal[TaskKind.EVALUATE] = TaskKind.EVALUATE
    metrics: dict[str, float]
    per_class: list[ClassScore] = Field(default_factory=list[ClassScore])
    samples: int


EngineOutput = Annotated[
    IngestOutput
    | PrepareOutput
    | CountOutput
    | ImportOutput
    | ValidateOutput
    | TuneOutput
    | EvaluateOutput
    | JudgeOutput
    | MergeOutput,
    Field(discriminator="kind"),
]


class JobResult(Record):
    """result.json. ``terminated`` may carry an output too: what was saved before leaving."""

    status: Literal["succeeded", "failed", "terminated"]
    output: EngineOutput | None = None
    error: ErrorBody | None = None


class ServeJob(Record):
    """serve.json: what a serving engine is started with."""

    deployment_id: str
    instance_id: str
    model: str = Field(description="path of the base model's folder")
    adapter: str | None = None
    served_name: str
    max_length: int = Field(default=4096, ge=16, description="longest input plus output, in tokens")
    host: str = "127.0.0.1"
    token: str = Field(description="bearer secret between gateway and instance")
    threads: int = Field(default=2, ge=1)
    traceparent: str | None = None


class ServeReady(Record):
    """ready.json: published by rename when the instance answers."""

    pid: int
    port: int
    max_length: int


class ServeStatus(Record):
    """What ``GET /status`` of a serving engine answers."""

    active: int = Field(description="requests being answered now")
    served: int = Field(description="requests answered since start")
    idle_s: float = Field(description="seconds since the last request ended or the engine got ready")
    prompt_tokens: int = 0
    completion_tokens: int = 0
