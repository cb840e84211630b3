"""What people ask for when they make a model, or want one checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from finery_contracts.model import Request
from finery_contracts.options import TaskOptions


class Source(Request):
    """Where weights come from: exactly one of the two, or a gallery id with a folder of own weights."""

    gallery: str | None = None
    path: str | None = Field(default=None, description="absolute folder on the server")

    @model_validator(mode="after")
    def _one(self) -> Source:
        if self.gallery is None and self.path is None:
            raise ValueError("give gallery (an id) or path (a folder)")
        return self


@dataclass(frozen=True)
class NewModel:
    """A gallery id or a folder, to become a model of the project."""

    name: str
    gallery: str | None = None
    path: str | None = None
    description: str = ""
    validate: bool = True
    options: TaskOptions = field(default_factory=TaskOptions)


class ImportRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind import."""

    kind: Literal["import"]
    model: str = Field(description="name of the model that is made")
    source: Source
    validate_weights: bool = Field(default=True, alias="validate", description="off: a bad model fails later")

    def new_model(self) -> NewModel:
        """The same wish, as the desk takes it."""
        options = TaskOptions(**self.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)))
        return NewModel(
            name=self.model, gallery=self.source.gallery, path=self.source.path, validate=self.validate_weights,
            options=options,
        )  # fmt: skip


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
    source = {name: value for name, value in (("gallery", new.gallery), ("path", new.path)) if value is not None}
    told = {"kind": "import", "model": new.name, "source": source, "validate": new.validate}
    return ImportRequest.model_validate({**new.options.model_dump(exclude_unset=True), **told})
