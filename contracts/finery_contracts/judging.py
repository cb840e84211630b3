"""Having a model judge records: what the engine is told, and what it said."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finery_contracts.kinds import TaskKind
from finery_contracts.model import Record


class JudgeSpec(Record):
    """Have a model say which answers are good: one that writes, or a reward model that scores."""

    kind: Literal[TaskKind.JUDGE] = TaskKind.JUDGE
    model: str
    adapter: str | None = None
    dataset: str = Field(description="path of the canonical Parquet file")
    against: str | None = Field(default=None, description="pair: path of a file with other answers to these prompts")
    records: list[int] = Field(description="places of the records to judge, from 0")
    mode: Literal["like", "pair"]
    guidelines: str = Field(default="", max_length=4000, description="what the model is told to look at")
    margin: float = Field(default=0.05, ge=0, le=1, description="pair: a preference nearer to even than this is a tie")
    batch_size: int = Field(default=8, ge=1, le=256)


class JudgeOutput(Record):
    """What a judge said: the records under each verdict. out/verdicts.jsonl keeps each one's figures."""

    kind: Literal[TaskKind.JUDGE] = TaskKind.JUDGE
    verdicts: dict[str, list[int]] = Field(description="like, dislike; or first, second, tie")
    too_long: int = Field(default=0, description="records that the model could not take; they got no verdict")
