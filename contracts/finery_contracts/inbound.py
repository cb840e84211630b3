"""What upstream systems say on ``finery.in.<project>.…``: CloudEvents that create work."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.model import Record

TASK_REQUESTED = "io.finery.task.requested.v1"


class InboundEvent(Record):
    """A CloudEvent from outside. ``id`` makes it unique: the same event twice makes one task."""

    specversion: str
    id: str = Field(min_length=1, max_length=255)
    source: str = Field(min_length=1, max_length=1024)
    type: str
    traceparent: str | None = None
    data: dict[str, Any] = Field(default_factory=dict, description="for a task: the body of POST /api/v1/tasks")


class Refusal(Record):
    """Why nothing came of it."""

    id: str
    source: str
    type: str
    error: ErrorBody


class InboundRefused(Event):
    """An upstream event could not be followed; ``error`` says why."""

    NOUN = "inbound"
    FACT = "refused"
    SAID_BY = "studio"
    data: Refusal
