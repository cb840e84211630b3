"""Making a dataset of datasets, and counting one's tokens: what engines are told, and what they found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finery_contracts.cleansing import Step
from finery_contracts.kinds import TaskKind
from finery_contracts.model import Record


class SourceUsed(Record):
    """A dataset that went into another one, as it was then: lineage (SPEC DS9)."""

    dataset: str = Field(description="its id")
    name: str
    version: int
    content_sha256: str
    records: int = 0


class PrepareSource(SourceUsed):
    """A source, and where its bytes lie."""

    path: str = Field(description="path of the canonical Parquet file")


class PrepareSpec(Record):
    """Make one dataset, or two with a split, of ready ones by a chain of steps."""

    kind: Literal[TaskKind.PREPARE] = TaskKind.PREPARE
    sources: list[PrepareSource]
    references: list[PrepareSource] = Field(
        default_factory=list[PrepareSource], description="evaluation sets that `contamination` names"
    )
    model: str | None = Field(default=None, description="folder whose tokenizer counts, where a length is in tokens")
    steps: list[Step] = Field(default_factory=list[Step])
    seed: int = 42
    examples: int = Field(default=20, description="records shown of each step")
    on: Literal["worker", "ray"] = Field(default="worker", description="ray: on a Ray cluster, with the same bytes")


class StepReport(Record):
    """What one step did."""

    step: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    records_in: int
    records_out: int
    removed: int = 0
    changed: int = 0
    repeated: int = Field(default=0, description="copies that were added")
    reasons: dict[str, int] = Field(default_factory=dict, description="why records went or were changed, and how many")
    notes: list[str] = Field(default_factory=list)


class StepExample(Record):
    """One line of examples.jsonl: a record that a step removed or changed."""

    place: int = Field(description="of the step in the chain, 1-based")
    step: str
    outcome: Literal["removed", "changed"]
    reason: str
    detail: str = ""
    source: str | None = None
    file: str | None = None
    line: int
    text: str = Field(description="the beginning of the record; without the personal data where that was the reason")


class PrepareOutput(Record):
    """What was made. out/: records, validation (.parquet), report, stats, validation_stats (.json), examples.jsonl."""

    kind: Literal[TaskKind.PREPARE] = TaskKind.PREPARE
    holds: str = Field(description="messages, preference, feedback, answer or text")
    records: int
    validation_records: int | None = Field(default=None, description="None: it was not split")
    size_bytes: int
    validation_size_bytes: int = 0
    characters: int = 0
    content_sha256: str = Field(description="of records.parquet")
    validation_sha256: str | None = None
    sources: list[SourceUsed] = Field(default_factory=list[SourceUsed])
    steps: list[StepReport] = Field(default_factory=list[StepReport])
    seed: int
    warnings: list[str] = Field(default_factory=list)


class CountSpec(Record):
    """Count a dataset's tokens as training with this model would see them."""

    kind: Literal[TaskKind.COUNT] = TaskKind.COUNT
    model: str = Field(description="path of the model's folder; its tokenizer and chat template are used")
    dataset: str = Field(description="path of the canonical Parquet file")
    max_length: int = Field(description="tokens; longer records would be cut")


class TokenBucket(Record):
    """Records of up to so many tokens, and more than the bucket before."""

    up_to_tokens: int
    records: int


class TokenRow(Record):
    """What one record takes."""

    line: int = Field(description="where it stood in its file, as in a page of records")
    tokens: int = Field(description="of the whole record")
    trained_tokens: int = Field(description="of these, after cutting, what the loss is taken of")
    truncated: bool
    refused: str | None = Field(default=None, description="why the chat template does not take it")


class TokenPage(Record):
    """Some records of a count, in the order of the dataset."""

    task: str
    offset: int
    total: int
    next: int | None = Field(default=None, description="offset of the page behind this one")
    data: list[TokenRow]


class CountOutput(Record):
    """What a dataset takes; what each record takes stands in out/tokens.parquet, a ``TokenRow`` each."""

    kind: Literal[TaskKind.COUNT] = TaskKind.COUNT
    records: int
    tokens: int = Field(description="of all records, whole")
    tokens_per_epoch: int = Field(description="what one pass over the data takes, after cutting")
    trained_tokens: int = Field(description="of these, what the loss is taken of")
    max_length: int
    truncated_records: int
    truncated_share: float
    lost_tokens: int = Field(description="cut off")
    untrained_records: int = Field(default=0, description="nothing is left to learn in them after cutting")
    refused_records: int = Field(default=0, description="the chat template does not take them; tokens.parquet says why")
    longest: int = 0
    mean: float = 0.0
    percentiles: dict[str, int] = Field(default_factory=dict, description="p50, p90, p95, p99 of tokens a record")
    histogram: list[TokenBucket] = Field(default_factory=list[TokenBucket])
    warnings: list[str] = Field(default_factory=list)
