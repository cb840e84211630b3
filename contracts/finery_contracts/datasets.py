"""Datasets: immutable, versioned by their content."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.model import Record, UtcTime
from finery_contracts.preparing import SourceUsed, StepReport
from finery_contracts.sources import PlaceView

DataFormat = Literal[
    "auto", "openai", "moss", "csv", "xlsx", "alpaca", "sharegpt", "preference", "feedback", "answer", "text"
]
"""What a file of people's data may be stated to be; ``auto`` lets its content say it."""


class DataKind(StrEnum):
    """What the records of a dataset are made for; it is fixed by their format."""

    MESSAGES = "messages"
    PREFERENCE = "preference"
    FEEDBACK = "feedback"
    ANSWER = "answer"
    TEXT = "text"


class DatasetState(StrEnum):
    """From upload, or from its source, to use."""

    FETCHING = "fetching"
    UPLOADED = "uploaded"
    READY = "ready"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    DELETED = "deleted"

    @property
    def pending(self) -> bool:
        """Its ingest has not ended."""
        return self in (DatasetState.FETCHING, DatasetState.UPLOADED)


class DatasetLineage(Record):
    """What a dataset was made of, and how: by a task, or by people who labelled it."""

    task: str | None = None
    labelling: str | None = None
    part: Literal["train", "validation"] = "train"
    sources: list[SourceUsed] = Field(default_factory=list[SourceUsed])
    references: list[SourceUsed] = Field(default_factory=list[SourceUsed], description="evaluation sets it was held to")
    steps: list[StepReport] = Field(default_factory=list[StepReport])
    seed: int = 0


class Withdrawal(Record):
    """Why nobody may use a dataset any longer."""

    dataset: str
    name: str
    reason: str
    by: str
    at: UtcTime


class DatasetView(Record):
    """A dataset's whole public state."""

    id: str
    project: str
    name: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    state: DatasetState
    version: int
    created_by: str
    created_at: UtcTime
    task: str | None = None
    format: str | None = None
    kind: DataKind | None = Field(default=None, description="set when it is ready")
    records: int = 0
    bad_records: int = 0
    content: str | None = Field(default=None, description="store URL of the canonical Parquet file")
    content_sha256: str | None = None
    report: str | None = Field(default=None, description="store URL of the report of bad records")
    statistics: str | None = Field(default=None, description="store URL of DatasetStatistics")
    warnings: list[str] = Field(default_factory=list)
    error: ErrorBody | None = None
    lineage: DatasetLineage | None = Field(default=None, description="of a dataset that was made of others")
    withdrawn: Withdrawal | None = None
    withdrawn_inputs: list[Withdrawal] = Field(
        default_factory=list[Withdrawal], description="datasets it was made from that were withdrawn since"
    )
    restorable_until: UtcTime | None = Field(default=None, description="deleted, but its files are still there")
    origin: PlaceView | None = Field(default=None, description="where its bytes were fetched from; never a secret")


class DatasetFact(Event):
    """A fact about a dataset."""

    NOUN = "dataset"
    SAID_BY = "studio"
    data: DatasetView


class DatasetRegistered(DatasetFact):
    """Its source is known; ingest will fetch the bytes and look at them."""

    FACT = "registered"


class DatasetUploaded(DatasetFact):
    """Bytes arrived and are kept; ingest will look at them."""

    FACT = "uploaded"


class DatasetReady(DatasetFact):
    """The canonical form is there; the dataset can be used."""

    FACT = "ready"


class DatasetRejected(DatasetFact):
    """Ingest found records that cannot be used; the report names each."""

    FACT = "rejected"


class DatasetDeleted(DatasetFact):
    """The dataset can no longer be named."""

    FACT = "deleted"


class DatasetRestored(DatasetFact):
    """A deletion was taken back in time."""

    FACT = "restored"


class DatasetWithdrawn(DatasetFact):
    """Nobody may use it any longer: ``withdrawn`` says why. What descends from it is flagged."""

    FACT = "withdrawn"


class DatasetFlagged(DatasetFact):
    """A dataset that it was made from was withdrawn: ``withdrawn_inputs``."""

    FACT = "flagged"


class AnswerCount(Record):
    """How often a short last answer occurs."""

    answer: str
    records: int


class LengthBucket(Record):
    """Records of up to so many characters, and more than the bucket before."""

    up_to_characters: int
    records: int


class TurnCount(Record):
    """Records with so many messages."""

    turns: int
    records: int


class DatasetStatistics(Record):
    """stats.json: what a dataset holds, as data for charts."""

    kind: DataKind = DataKind.MESSAGES
    records: int
    turns: int
    characters: dict[str, int] = Field(description="by role, and of texts and answers")
    messages: dict[str, int] = Field(default_factory=dict, description="by role")
    lengths: list[LengthBucket] = Field(description="characters of a whole record")
    turns_per_record: list[TurnCount] = Field(default_factory=list[TurnCount])
    languages: dict[str, float] = Field(default_factory=dict, description="share of a sample of up to 500 records")
    labels: dict[str, int] = Field(default_factory=dict, description="like and dislike")
    duplicates: int = Field(default=0, description="records whose content an earlier one has")
    duplicates_exact: bool = Field(default=True, description="false: estimated, beyond some sixteen million records")
    distinct_short_answers: int
    top_answers: list[AnswerCount]


class RecordRow(Record):
    """One record of a page; fields that its kind does not use are left out."""

    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    tools: list[dict[str, Any]] | None = None
    chosen: list[dict[str, Any]] | None = None
    rejected: list[dict[str, Any]] | None = None
    label: bool | None = None
    reward: float | None = None
    answer: str | None = None
    text: str | None = None
    source: str | None = None
    file: str | None = None
    line: int


class RecordPage(Record):
    """Some records of a dataset, in its order."""

    kind: DataKind
    offset: int
    total: int
    next: int | None = Field(default=None, description="offset of the page behind this one")
    data: list[RecordRow]
