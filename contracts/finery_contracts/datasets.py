"""Datasets: immutable, versioned by their content."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.model import Record, UtcTime
from finery_contracts.sources import PlaceView


class DatasetState(StrEnum):
    """From upload, or from its source, to use."""

    FETCHING = "fetching"
    UPLOADED = "uploaded"
    READY = "ready"
    REJECTED = "rejected"
    DELETED = "deleted"

    @property
    def pending(self) -> bool:
        """Its ingest has not ended."""
        return self in (DatasetState.FETCHING, DatasetState.UPLOADED)


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
    records: int = 0
    bad_records: int = 0
    content: str | None = Field(default=None, description="store URL of the canonical Parquet file")
    content_sha256: str | None = None
    report: str | None = Field(default=None, description="store URL of the report of bad records")
    warnings: list[str] = Field(default_factory=list)
    error: ErrorBody | None = None
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
