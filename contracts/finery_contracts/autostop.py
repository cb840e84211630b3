"""Auto-stop (SPEC TA4): the billing meter keeps the deadlines, the owner of the noun stops what is due."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, UtcTime

AutoStopSeconds = Annotated[int, Field(ge=60, le=30 * 86_400)]
"""1, 2, 4 or 6 hours, or an own value: 60 seconds to 30 days. Only running seconds count."""


class AutoStopView(Record):
    """A deadline: ``used_s`` of ``limit_s`` seconds have run when this is said."""

    noun: Literal["task", "deployment"]
    noun_id: str
    project: str
    limit_s: int
    used_s: float
    due_at: UtcTime
    version: int


class AutoStopFact(Event):
    """A fact about a deadline; its noun id is the task's or deployment's."""

    NOUN = "autostop"
    SAID_BY = "billing-meter"
    data: AutoStopView


class AutoStopWarned(AutoStopFact):
    """It will be stopped soon: at ``due_at``."""

    FACT = "warned"


class AutoStopDue(AutoStopFact):
    """Its running time is used up; its owner stops it."""

    FACT = "due"
