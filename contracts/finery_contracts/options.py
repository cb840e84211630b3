"""What people may choose for any paid work, whatever its kind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finery_contracts.autostop import AutoStopSeconds
from finery_contracts.model import Request
from finery_contracts.tasks import NotifyChoice


class TaskOptions(Request):
    """What every kind of task can be submitted with, beside what it is to do."""

    name: str | None = Field(default=None, min_length=1, max_length=64)
    description: str = Field(default="", max_length=1000)
    pool: str = Field(default="public", max_length=64)
    flavour: str = Field(default="cpu", max_length=64)
    priority: int = Field(default=50, ge=0, le=100, description="among the project's own tasks; larger goes first")
    auto_stop_s: AutoStopSeconds | None = Field(
        default=None, description="stop after so many running seconds; off by default"
    )
    on_hang: Literal["tell", "retry"] = Field(
        default="tell", description="retry: what seems to hang is also stopped and resumed from its last checkpoint"
    )
    keep_logs: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
        max_length=256,
        description="path in the project's archive under which the logs are kept for ever, not for the usual 30 days",
    )
    notify: NotifyChoice | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
