"""Models: base models from gallery or folder, and what tuning made of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.datasets import Withdrawal
from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import Finding
from finery_contracts.model import Record, UtcTime
from finery_contracts.sources import PlaceView
from finery_contracts.weights import Repair


class ModelState(StrEnum):
    """From import to removal."""

    IMPORTING = "importing"
    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"
    DELETED = "deleted"


class Certificate(Record):
    """What was settled at a model's birth: its card, its bill of materials, and one signature over all its files.

    The store's folder ``url`` holds ``README.md``, ``bom.cdx.json`` and ``model.sig`` (OpenSSF model signing).
    """

    url: str
    key: str = Field(description="SHA-256 of the signer's public key (PEM), in hex")
    digest: str = Field(description="SHA-256 over the digests of all files, as the signature states it")
    content: str = Field(description="the same over weights, configuration and tokenizer alone: equal in every house")
    made_at: UtcTime


class ModelView(Record):
    """A model's whole public state. A tuned model is ``base`` plus an adapter.

    Versions of one name are models of their own: ``name`` names the current one, ``name@2`` a certain one.
    """

    id: str
    project: str
    name: str
    number: int = Field(default=1, description="which version of its name it is; never given twice")
    current: bool = Field(default=True, description="it is what the bare name means")
    description: str = ""
    state: ModelState
    version: int
    created_by: str
    created_at: UtcTime
    family: str | None = None
    gallery: str | None = Field(default=None, description="the gallery id it was made from")
    origin: PlaceView | None = Field(default=None, description="where its weights came from, when not the gallery's")
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
    lineage: dict[str, str] = Field(
        default_factory=dict,
        description="ids: dataset, validation, task, base, merged_from, repaired_from; step; repairs; bundle origin",
    )
    repairs: list[Repair] = Field(
        default_factory=list[Repair], description="agreed to, and made in the files of this version"
    )
    certificate: Certificate | None = Field(default=None, description="made soon after it is ready")
    withdrawn_inputs: list[Withdrawal] = Field(
        default_factory=list[Withdrawal], description="datasets it descends from that were withdrawn since"
    )
    restorable_until: UtcTime | None = Field(default=None, description="deleted, but its files are still there")
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


class ModelRestored(ModelFact):
    """A deletion was taken back in time."""

    FACT = "restored"


class ModelMadeCurrent(ModelFact):
    """The bare name means this version now."""

    FACT = "made_current"


class ModelSteppedBack(ModelFact):
    """Another version has the bare name now; this one is found by ``name@number``."""

    FACT = "stepped_back"


class ModelSigned(ModelFact):
    """Card, bill of materials and signature are there; from now on a changed byte is found."""

    FACT = "signed"


class ModelFlagged(ModelFact):
    """A dataset that it descends from was withdrawn: ``withdrawn_inputs``."""

    FACT = "flagged"
