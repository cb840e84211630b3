"""The picture of what a dataset comes from and what came of it."""

from __future__ import annotations

from typing import Literal

from finery_contracts.model import Record


class LineageNode(Record):
    """A dataset, task or model."""

    id: str
    noun: Literal["dataset", "task", "model"]
    name: str
    state: str
    content_sha256: str | None = None


class LineageEdge(Record):
    """From a source to what was made of it."""

    source: str
    target: str
    role: str


class DatasetGraph(Record):
    """Up and down from one dataset; ``complete`` is false when the picture had to be cut."""

    dataset: str
    nodes: list[LineageNode]
    edges: list[LineageEdge]
    complete: bool = True
