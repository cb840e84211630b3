"""The CloudEvents 1.0 envelope of every fact: these very bytes lie in the outbox, on the bus, in a webhook.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md; ``traceparent`` is its distributed-tracing
extension, ``project`` and ``nounversion`` are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from finery_contracts.model import Record, UtcTime

CONTENT_TYPE = "application/cloudevents+json"


class Event(Record):
    """A fact: something that happened to one noun, with the noun's whole new state as ``data``."""

    NOUN: ClassVar[str] = ""
    FACT: ClassVar[str] = ""
    SAID_BY: ClassVar[str] = ""

    specversion: Literal["1.0"] = "1.0"
    id: str
    type: str
    source: str
    subject: str = Field(description="<noun>/<id>")
    time: UtcTime
    datacontenttype: Literal["application/json"] = "application/json"
    project: str
    nounversion: int = Field(description="the noun's version after this fact; grows with each")
    traceparent: str | None = None
    data: Any

    @property
    def noun_id(self) -> str:
        """The id of the thing this fact is about."""
        return self.subject.split("/", 1)[1]

    @property
    def bus_subject(self) -> str:
        """``finery.evt.<project>.<noun>.<id>.<fact>``: ids only, never names."""
        return f"finery.evt.{self.project}.{type(self).NOUN}.{self.noun_id}.{type(self).FACT}"

    @classmethod
    def type_name(cls) -> str:
        """``io.finery.<noun>.<fact>.v1``."""
        return f"io.finery.{cls.NOUN}.{cls.FACT}.v1"

    @classmethod
    def filter_subject(cls) -> str:
        """The subject under which this fact of any project and noun is heard."""
        return f"finery.evt.*.{cls.NOUN}.*.{cls.FACT}"
