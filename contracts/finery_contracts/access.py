"""Projects and keys, as the parts of Finery that check them see them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, UtcTime


class Role(StrEnum):
    """SPEC PR3. ``operator`` is of the installation, the others of one project."""

    OPERATOR = "operator"
    FULL = "full"
    COMMON = "common"
    READ = "read"


class KeyGrant(Record):
    """KV bucket ``keys``, key = the keyed hash of the secret."""

    key: str
    project: str
    project_name: str
    user: str
    role: Role
    groups: list[str] = Field(default_factory=list, description="what grants may name instead of the user")
    federated: bool = Field(default=False, description="the user is known by another identity provider")


class ProjectView(Record):
    """A project: the tenant everything belongs to."""

    id: str
    name: str
    version: int
    created_at: UtcTime


class ProjectCreated(Event):
    """A project exists; its bus credential works from now on."""

    NOUN = "project"
    FACT = "created"
    SAID_BY = "studio"
    data: ProjectView


class Actor(Record):
    """Who asks: travels in the header of every forwarded request."""

    project: str
    project_name: str
    user: str
    key: str
    role: Role
    groups: list[str] = Field(default_factory=list)
    federated: bool = False
