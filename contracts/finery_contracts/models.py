"""Models: base models from gallery or folder, and what tuning made of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import Finding
from finery_contracts.model import Record, UtcTime


class ModelState(StrEnum):
    """From import to removal."""

    IMPORTING = "importing"
    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"
    DELETED = "deleted"


class ModelView(Record):
    """A model's whole public state. A tuned model is ``base`` plus an adapter."""

    id: str
    project: str
    name: str
    description: str = ""
    state: ModelState
    version: int
    created_by: str
    created_at: UtcTime
    family: str | None = None
    gallery: str | None = Field(default=None, description="the gallery id it was made from")
    base: str | None = Field(default=None, description="id of the model under the adapter")
    quantisation: str | None = Field(default=None, description="awq, smoothquant, …, or unknown; absent: not quantised")
    openai_name: str | None = Field(default=None, description="ft:<base>:<project>:<suffix>:<id>")
    published: bool = True
    expires_at: UtcTime | None = None
    notices: list[int] = Field(default_factory=list[int], description="given so many days before ``expires_at``")
    weights: str | None = Field(default=None, description="store URL of the model folder")
    adapter: str | None = Field(default=None, description="store URL of the adapter folder")
    parameters: int = 0
    size_bytes: int = 0
    max_length: int = 4096
    findings: list[Finding] = Field(default_factory=list[Finding])
    tasks: list[str] = Field(default_factory=list, description="the task record: import, validate, tune, …")
    lineage: dict[str, str] = Field(default_factory=dict, description="training dataset, validation dataset, …")
    error: ErrorBody | None = None


class ModelFact(Event):
    """A fact about a model."""

    NOUN = "model"
    SAID_BY = "studio"
    data: ModelView


class ModelCreated(ModelFact):
    """A model was named; its weights are on their way."""

    FACT = "created"


class ModelReady(ModelFact):
    """The weights are there and, unless that was switched off, validated."""

    FACT = "ready"


class ModelInvalid(ModelFact):
    """Import or validation found faults; ``findings`` names each."""

    FACT = "invalid"


class ModelPublished(ModelFact):
    """A tuned model is kept for good and can be named."""

    FACT = "published"


class ModelExpiresSoon(ModelFact):
    """A temporary model goes at ``expires_at``; publishing keeps it."""

    FACT = "expires_soon"


class ModelDeleted(ModelFact):
    """The model can no longer be named."""

    FACT = "deleted"
