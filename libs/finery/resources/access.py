"""Keys and projects."""

from __future__ import annotations

from finery.transport import Page, Transport
from finery_contracts.access import Role
from finery_contracts.model import Record, UtcTime

KEYS, PROJECTS = "/api/v1/keys", "/api/v1/projects"


class Key(Record):
    """A key; ``secret`` only in the answer that made it."""

    id: str
    project: str
    user: str
    role: Role
    description: str = ""
    hint: str
    created_at: UtcTime
    secret: str | None = None


class BusCredential(Record):
    """What a project's programs say to NATS."""

    user: str
    password: str


class Project(Record):
    """A project; ``key`` and ``bus`` only in the answer that made it."""

    id: str
    name: str
    created_at: UtcTime
    key: Key | None = None
    bus: BusCredential | None = None


class Keys:
    """``client.keys``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, *, description: str = "", role: Role = Role.FULL, user: str | None = None) -> Key:
        """Make a key; its ``secret`` is in this answer and nowhere else."""
        body = {"description": description, "role": role.value, "user": user}
        return self._transport.view(Key, "POST", KEYS, json=body)

    def list(self) -> Page[Key]:
        """The project's keys."""
        return self._transport.page(Key, KEYS)

    def revoke(self, key_id: str) -> Key:
        """Make a key stop working; it never comes back."""
        return self._transport.view(Key, "DELETE", f"{KEYS}/{key_id}")


class Projects:
    """``client.projects``: for operators."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str) -> Project:
        """Make a tenant; the answer carries its first key and its bus credential."""
        return self._transport.view(Project, "POST", PROJECTS, json={"name": name})

    def list(self) -> Page[Project]:
        """All tenants."""
        return self._transport.page(Project, PROJECTS)
