"""The event log as it is read back: what may be asked of it, and a page of the answer. Studio keeps it, whole."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from finery_contracts.errors import InvalidRequest
from finery_contracts.model import Record, Request, UtcTime

TYPE_PATTERN = re.compile(r"\*|(io\.finery\.)?[a-z_]+\.(\*|[a-z_]+(\.v[0-9]+)?)")
MAX_ID = 255
MAX_PAGE_BYTES = 512 * 1024
"""A page ends before it is larger than this, unless its one event is: so it fits into a message of the bus."""


def check_type_pattern(pattern: str) -> str:
    """``task.*``, ``task.succeeded``, ``io.finery.task.succeeded.v1``, or ``*``.

    Raises:
        InvalidRequest: it is none of these.
    """
    if not TYPE_PATTERN.fullmatch(pattern):
        raise InvalidRequest(
            f"{pattern[:80]!r} is no type of events; say task.succeeded, task.* or io.finery.task.succeeded.v1",
            code="types_invalid",
            param="types",
        )
    return pattern


class LogRequest(Request):
    """``studio.events``: the facts of a project (of all, for services and the operator), oldest first."""

    after: int = Field(default=0, ge=0, lt=2**63, description="cursor: the seq of the last event seen")
    since: UtcTime | None = Field(default=None, description="only what happened at or after this time")
    noun_id: str | None = Field(default=None, max_length=MAX_ID, description="of this noun, and about it")
    types: list[Annotated[str, AfterValidator(check_type_pattern)]] = Field(
        default_factory=list, max_length=50, description="such as task.succeeded or task.*; empty: all"
    )
    limit: int = Field(default=100, ge=1, le=1000)
    all_projects: bool = False


class LoggedEvent(Record):
    """An event as it was published; ``seq`` is its place and the cursor. ``registry`` parses what it knows."""

    seq: int
    event: dict[str, Any] = Field(description="a CloudEvent")


class LogPage(Record):
    """Some of the log; ``next`` is the ``after`` of the following page, also when there is none yet."""

    data: list[LoggedEvent]
    next: int = 0
    has_more: bool = False


def about(data: Any) -> set[str]:
    """Ids of other nouns that a fact's data speaks of: a charge names its tasks, a dataset the task that made it."""
    if not isinstance(data, dict):
        return set()
    said = cast("dict[str, Any]", data)
    ids = [said.get(name) for name in ("noun_id", "task")]
    lines: object = said.get("lines")
    if isinstance(lines, list):
        for line in cast("list[Any]", lines):
            ids += about(line)
    return {name for name in ids if isinstance(name, str) and 0 < len(name) <= MAX_ID}


__all__ = ["MAX_PAGE_BYTES", "LogPage", "LogRequest", "LoggedEvent", "about", "check_type_pattern"]
