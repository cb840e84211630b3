"""Merging: what the engine is told that makes one model of a base and an adapter, and what it answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finery_contracts.kinds import TaskKind
from finery_contracts.model import Record
from finery_contracts.weights import AllowedCode, Sha256


class MergeSpec(Record):
    """Make a whole model folder of a base model and an adapter that was tuned on it."""

    kind: Literal[TaskKind.MERGE] = TaskKind.MERGE
    model: str = Field(description="path of the base model's folder")
    adapter: str = Field(description="path of the adapter's folder")
    allowed_code: AllowedCode = Field(default_factory=list[Sha256])
    max_shard_bytes: int = Field(default=5 * 10**9, ge=2**20, description="larger weights become several files")


class MergeOutput(Record):
    """What was made. out/model/ is the folder."""

    kind: Literal[TaskKind.MERGE] = TaskKind.MERGE
    architecture: str
    parameters: int
    size_bytes: int
    dtype: str
    max_length: int
    merged_tensors: int = Field(description="weights that the adapter changed")
