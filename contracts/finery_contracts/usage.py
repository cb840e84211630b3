"""Usage: what was answered, counted by the gateway. No prompt and no answer ever travels here."""

from __future__ import annotations

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, UtcTime


class CallUsage(Record):
    """One answered call."""

    request_id: str
    at: UtcTime
    project: str
    key: str
    deployment: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    duration_ms: float
    status: int


class UsageBatch(Record):
    """Lines of one project from one segment of a gateway's journal."""

    segment: str
    offset: int = Field(description="of the first byte; with the segment it is the key of this batch")
    calls: list[CallUsage]


class UsageRecorded(Event):
    """Calls were answered; tokens are metered from here."""

    NOUN = "usage"
    FACT = "recorded"
    SAID_BY = "gateway"
    data: UsageBatch
