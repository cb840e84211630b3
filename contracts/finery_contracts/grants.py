"""Grants: what Finery may do on a user's behalf, for whom and for how long (SPEC PR4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime

MAX_GRANTS = 50
"""Of a project."""


class Action(StrEnum):
    """What may be done with a place."""

    READ = "read"
    WRITE = "write"
    PUBLISH = "publish"
    CALL = "call"


class Target(Request):
    """For whom: one user, one of another identity provider, the members of a group or agency, or everyone in the
    project, whoever comes later included."""

    kind: Literal["user", "federated_user", "group", "everyone"] = "everyone"
    name: str | None = Field(default=None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _named(self) -> Target:
        if (self.kind == "everyone") != (self.name is None):
            raise ValueError("a user or group has a name, everyone has none")
        return self


Resource = Annotated[
    str,
    Field(
        min_length=1, max_length=2048,
        description="s3://bucket/prefix, file:///folder, https://host/path, sql://connection or topic://name; what "
        "lies below is meant, too",
    ),
]  # fmt: skip
Days = Annotated[int | None, Field(ge=1, le=36_500, description="how long it lasts; null: for ever")]


class GrantRequest(Request):
    """Give a grant."""

    action: Action
    resource: Resource
    target: Target = Target()
    days: Days = None
    description: str = Field(default="", max_length=256)


class GrantChange(Request):
    """Narrow a grant; what is left out stays."""

    resource: Resource | None = None
    target: Target | None = None
    days: Days = Field(default=None, description="it ends so many days from now; never later than before")


class TargetView(Record):
    """For whom a grant is."""

    kind: Literal["user", "federated_user", "group", "everyone"]
    name: str | None = None


class GrantView(Record):
    """A grant."""

    id: str
    project: str
    action: Action
    resource: str
    target: TargetView
    description: str = ""
    expires_at: UtcTime | None = Field(default=None, description="null: for ever")
    version: int
    created_by: str
    created_at: UtcTime


class GrantFact(Event):
    """A fact about a grant."""

    NOUN = "grant"
    SAID_BY = "studio"
    data: GrantView


class GrantGiven(GrantFact):
    """Tasks of its target may do what it says."""

    FACT = "given"


class GrantNarrowed(GrantFact):
    """It allows less than before."""

    FACT = "narrowed"


class GrantWithdrawn(GrantFact):
    """It allows nothing any more: somebody deleted it."""

    FACT = "withdrawn"


class GrantExpired(GrantFact):
    """It allows nothing any more: its time is over."""

    FACT = "expired"
