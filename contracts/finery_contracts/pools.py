"""Where tasks run and in which order they get there: flavours, pools, quotas (SPEC TA3)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finery_contracts.jobs import TaskKind
from finery_contracts.model import Record, Request, UtcTime

PUBLIC = "public"
"""The pool that every installation has; ids of other public pools begin with this word, those of dedicated ones not."""


def is_public(pool_id: str) -> bool:
    """True for a pool that all projects share: the only ones that packages can be bought for."""
    return pool_id == PUBLIC or pool_id.startswith(f"{PUBLIC}_")


FlavourName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Slots = Annotated[int, Field(ge=0, le=1_000_000)]


class Flavour(Record):
    """A flavour as it is shown."""

    name: str
    title: str
    accelerators: int = 0
    accelerator: str | None = None
    memory_gb: float
    price: str
    slots: int = 1
    driver: str | None = None
    kinds: list[TaskKind]
    methods: list[str] | None = None


class PoolRequest(Request):
    """Make a pool: one project's own, or (operators) one for all."""

    name: str
    description: str = Field(default="", max_length=256)
    public: bool = Field(default=False, description="shared by all projects; for operators")
    flavours: dict[FlavourName, Slots | None] = Field(
        min_length=1, max_length=64, description="slots of each flavour; null: as many as its workers have"
    )
    driver: str | None = Field(default=None, max_length=64, description="version of the accelerators' driver")


class PoolChange(Request):
    """Change a pool; what is left out stays."""

    description: str | None = Field(default=None, max_length=256)
    flavours: dict[FlavourName, Slots | None] | None = Field(default=None, min_length=1, max_length=64)
    driver: str | None = Field(default=None, max_length=64)


class PoolView(Record):
    """A pool. Workers of it are started with its id (``FINERY_POOL``)."""

    id: str
    name: str
    description: str = ""
    public: bool
    flavours: dict[str, int | None] = Field(description="slots of each flavour; null: as many as its workers have")
    used: dict[str, int] = Field(default_factory=dict, description="slots that are taken now")
    waiting: int = Field(default=0, description="tasks of your project that wait here")
    driver: str | None = None
    created_by: str
    created_at: UtcTime


class QuotaChange(Request):
    """Set a project's quota; what is left out stays, null goes back to the default."""

    running_slots: Slots | None = Field(default=None, description="slots that its tasks may take at once")
    waiting_tasks: Slots | None = Field(default=None, description="tasks that may wait")
    share: int | None = Field(default=None, ge=1, le=1000, description="its weight when projects share a pool")


class QuotaView(Record):
    """A project's quota and how much of it is used."""

    project: str
    project_name: str
    running_slots: int
    waiting_tasks: int
    share: int
    used_slots: int
    waiting: int
