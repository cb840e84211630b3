"""The picture of what a dataset or model comes from and what came of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finery_contracts.model import Record
from finery_contracts.sources import PlaceView


class LineageNode(Record):
    """A dataset, task or model."""

    id: str
    noun: Literal["dataset", "task", "model"]
    name: str
    state: str
    number: int | None = Field(default=None, description="which version of its name a model is")
    content_sha256: str | None = Field(default=None, description="of a dataset")
    origin: PlaceView | None = Field(default=None, description="a place outside that it was fetched from")
    withdrawn: bool = Field(default=False, description="it was withdrawn, or descends from something that was")


class LineageEdge(Record):
    """From a source to what was made of it."""

    source: str
    target: str
    role: str


class Lineage(Record):
    """Up and down from one dataset or model, over any number of steps."""

    of: str = Field(description="id of what was asked about")
    nodes: list[LineageNode]
    edges: list[LineageEdge]
    complete: bool = Field(default=True, description="false: there is more than one picture holds; the nearest is here")
