"""What people ask for when they make a model, or want one checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finery_contracts.model import Request
from finery_contracts.options import TaskOptions
from finery_contracts.sources import MAX_URL_CHARACTERS

RepairIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]],
    Field(max_length=20, description="ids of repairs that are agreed to; they are made in the copy that is imported"),
]


class Source(Request):
    """Where weights come from: a gallery id, a folder, or both: the entry with a folder of own weights."""

    gallery: str | None = None
    path: str | None = Field(default=None, description="absolute folder on the server")
    url: str | None = Field(
        default=None, min_length=1, max_length=MAX_URL_CHARACTERS, description="s3://bucket/prefix, or file:///folder"
    )
    connection: str | None = Field(
        default=None, min_length=1, max_length=64,
        description="name or id of what opens the object store; default: the project's only one",
    )  # fmt: skip

    gguf_file: str | None = Field(
        default=None, min_length=1, max_length=255, description="of a folder with several GGUF files, the name of one"
    )

    @model_validator(mode="after")
    def _one(self) -> Source:
        if self.gallery is None and self.path is None and self.url is None:
            raise ValueError("give gallery (an id), path (a folder) or url (s3://bucket/prefix)")
        if self.path is not None and self.url is not None:
            raise ValueError("path and url both name a folder; give one of them")
        if self.gguf_file is not None and self.path is None and self.url is None:
            raise ValueError("gguf_file is a file of your own folder: give path or url beside it")
        if self.connection is not None and not (self.url or "").startswith("s3://"):
            raise ValueError("a connection opens an object store: give it beside url (s3://bucket/prefix)")
        return self


@dataclass(frozen=True)
class NewModel:
    """A gallery id or a folder, here or in an object store, to become a model of the project."""

    name: str
    gallery: str | None = None
    path: str | None = None
    url: str | None = None
    connection: str | None = None
    gguf_file: str | None = None
    description: str = ""
    validate: bool = True
    apply_repairs: tuple[str, ...] = ()
    options: TaskOptions = field(default_factory=TaskOptions)


class ImportRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind import."""

    kind: Literal["import"]
    model: str = Field(description="name of the model that is made")
    source: Source
    validate_weights: bool = Field(default=True, alias="validate", description="off: a bad model fails later")
    apply_repairs: RepairIds = Field(default_factory=list[str])

    def new_model(self) -> NewModel:
        """The same wish, as the desk takes it."""
        options = TaskOptions(**self.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)))
        return NewModel(
            name=self.model, **self.source.model_dump(), validate=self.validate_weights,
            apply_repairs=tuple(self.apply_repairs), options=options,
        )  # fmt: skip


class RepairTask(TaskOptions):
    """``POST /api/v1/tasks`` with kind import, and what a copy of such a task begins with: a repaired copy."""

    kind: Literal["import"]
    repair_of: str = Field(description="a model; the copy becomes the next version of its name")
    apply_repairs: RepairIds = Field(min_length=1)


class RepairRequest(Request):
    """Consent to repairs that were proposed: ``POST /api/v1/models/{ref}/repairs``."""

    apply: RepairIds = Field(min_length=1)
    task: TaskOptions = Field(default=TaskOptions(), description="options of the task that makes the copy")


class ValidateRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind validate."""

    kind: Literal["validate"]
    model: str


class PublishRequest(Request):
    """Keep what a tuning left: its final weights or those of a kept checkpoint, as an adapter or merged."""

    name: str | None = Field(default=None, description="default: the name it has, or one made of it")
    step: int | None = Field(default=None, ge=0, description="of a kept checkpoint; default: the final weights")
    form: Literal["adapter", "merged"] = "adapter"
    new_version: bool = Field(default=False, description="the name is in use: become its next, current version")


class MergeRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind merge: the same as publishing it merged."""

    kind: Literal["merge"]
    model: str = Field(description="a tuned model")
    output: str | None = Field(default=None, description="name of the model that is made")
    step: int | None = Field(default=None, ge=0)
    new_version: bool = False


def asked_for(new: NewModel) -> ImportRequest:
    """The same wish, as ``POST /api/v1/tasks`` takes it."""
    said = {name: getattr(new, name) for name in Source.model_fields}
    source = {name: value for name, value in said.items() if value is not None}
    told = {"kind": "import", "model": new.name, "source": source, "validate": new.validate}
    told |= {"apply_repairs": list(new.apply_repairs)} if new.apply_repairs else {}
    return ImportRequest.model_validate({**new.options.model_dump(exclude_unset=True), **told})
