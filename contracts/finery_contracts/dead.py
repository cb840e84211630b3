"""Dead letters: messages that a consumer gave up, as the operator sees them, and the headers they carry on the bus."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.model import Record, UtcTime


class DeadHeader(StrEnum):
    """Headers of a message on ``finery.dead.<durable>``; the body is the message's own, whole."""

    REASON = "Finery-Reason"
    DURABLE = "Finery-Durable"
    STREAM = "Finery-Stream"
    SEQ = "Finery-Seq"
    SUBJECT = "Finery-Subject"
    DELIVERIES = "Finery-Deliveries"
    FIRST_AT = "Finery-First-At"
    LAST_AT = "Finery-Last-At"
    BODY = "Finery-Body"


class DeadLetter(Record):
    """One message that one consumer gave up."""

    id: int = Field(description="its place in the stream DEAD")
    durable: str = Field(description="the consumer that gave it up; only that one hears a replay")
    reason: str = Field(description="the last error's type and words, without secrets")
    stream: str
    seq: int = Field(description="its place in that stream")
    subject: str
    deliveries: int
    first_at: UtcTime
    last_at: UtcTime
    size_bytes: int


class DeadMessage(DeadLetter):
    """With everything that was said."""

    headers: dict[str, str]
    body: str = Field(description="text; bytes that are none are shown as escapes")


class DeadPage(Record):
    """Oldest first."""

    data: list[DeadLetter]
    next: int = Field(description="give it as `after` to read on")
    has_more: bool


class Replayed(Record):
    """A dead letter was said once more, to its consumer alone."""

    id: int
    durable: str
    subject: str


class Dropped(Record):
    """A dead letter is gone for good."""

    id: int
