"""What is said of a model folder: faults with codes, and repairs that wait for consent. It says nothing of the folder's
place or owner.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from finery_contracts.model import Record

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", examples=["0123456789abcdef" * 4])]
AllowedCode = Annotated[
    list[Sha256], Field(description="sha256 of Python files that an operator allows, original or repaired")
]


class Finding(Record):
    """One fault (or remark) of a model folder."""

    code: str
    severity: Literal["error", "warning", "info"]
    message: str = Field(description="what is wrong")
    where: str = Field(description="file, key or tensor")
    remedy: str
    data: dict[str, Any] = Field(
        default_factory=dict, description="for programs: key, published and found; a scanner's verdict; a repair"
    )


class Repair(Record):
    """A known repair that fits a file of the folder; it is applied to a copy, and only when agreed to."""

    id: str
    file: str
    reason: str
    diff: str = Field(description="unified diff of the file as it is and as it would be")
    sha256_before: Sha256
    sha256_after: Sha256


class ProposedRepair(Repair):
    """A repair as it is shown to whoever may agree to it."""

    applied: bool = Field(description="the files of this version have it")
    allowed: bool | None = Field(
        default=None, description="of a Python file: an operator allows it, as it is or repaired; absent: it is none"
    )
    versions: list[str] = Field(
        default_factory=list, description="repaired copies of this version that have it, as name@number"
    )


class Repairs(Record):
    """What is proposed for a model, and what its files have already."""

    model: str
    state: str
    data: list[ProposedRepair]
