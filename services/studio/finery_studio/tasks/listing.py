"""Lists of tasks: filtered, searched, sorted, page by page. Every order and filter has its index; nothing is loaded
that is not shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

from sqlalchemy import Select, or_, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from finery_contracts.errors import InvalidRequest
from finery_studio.tasks.store import LabelRow, TaskRow, label_of

Sort = Literal["created", "-created", "name", "-name", "state", "-state", "priority", "-priority"]
NEWEST_FIRST: Sort = "-created"


@dataclass(frozen=True)
class Wanted:
    """What a list is asked for; ``after`` is where the page before ended."""

    kind: str | None = None
    state: str | None = None
    pool: str | None = None
    user: str | None = None
    search: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    sort: Sort = NEWEST_FIRST
    after: str | None = None
    limit: int = 20


def list_tasks(session: Session, project: str, wanted: Wanted) -> list[TaskRow]:
    """At most ``limit`` tasks of the project."""
    ids = session.scalars(page_of(project, wanted)).all()
    rows = {row.id: row for row in session.exec(select(TaskRow).where(col(TaskRow.id).in_(ids)))}
    return [rows[task_id] for task_id in ids if task_id in rows]


def page_of(project: str, wanted: Wanted) -> Select[Any]:
    """The ids of a page. Told apart from the rows, so that a search reads the index and not the tasks."""
    query, task_id = _found(project, wanted)
    equals = _equals(wanted)
    if wanted.metadata and (equals or wanted.search or wanted.sort.removeprefix("-") != "created"):
        query = query.join(TaskRow, col(TaskRow.id) == task_id)
    for column, value in equals:
        query = query.where(column == value)
    if wanted.search:
        named = col(TaskRow.name).icontains(wanted.search, autoescape=True)
        query = query.where(or_(named, col(TaskRow.id) == wanted.search))
    name, down = wanted.sort.removeprefix("-"), wanted.sort.startswith("-")
    order: list[Any] = [task_id] if name == "created" else [getattr(TaskRow, name), task_id]
    if wanted.after:
        here, there = tuple_(*order), tuple_(*_place(wanted))
        query = query.where(here < there if down else here > there)
    return query.order_by(*(column.desc() if down else column.asc() for column in order)).limit(wanted.limit)


def metadata_of(query: str) -> dict[str, str]:
    """``metadata[team]=shop`` in a URL's query, as OpenAI's lists take it."""
    said = parse_qsl(query, keep_blank_values=True)
    return {name[9:-1]: value for name, value in said if name.startswith("metadata[") and name.endswith("]")}


def cursor(row: TaskRow, sort: Sort) -> str:
    """What to say as ``after`` to get what follows this task. By age it is the id alone."""
    name = sort.removeprefix("-")
    return row.id if name == "created" else f"{getattr(row, name)}~{row.id}"


def _equals(wanted: Wanted) -> list[tuple[Any, str]]:
    asked = (
        (col(TaskRow.kind), wanted.kind), (col(TaskRow.state), wanted.state), (col(TaskRow.pool), wanted.pool),
        (col(TaskRow.created_by), wanted.user),
    )  # fmt: skip
    return [(column, value) for column, value in asked if value is not None]


def _found(project: str, wanted: Wanted) -> tuple[Select[Any], Any]:
    """The tasks of the project, and their id's column; with metadata, by way of the index of labels."""
    labels = [label_of(key, value) for key, value in wanted.metadata.items()]
    if not labels:
        return select(col(TaskRow.id)).where(TaskRow.project == project), col(TaskRow.id)
    first = aliased(LabelRow)
    query: Select[Any] = select(col(first.task)).where(first.project == project, first.label == labels[0])
    for label in labels[1:]:
        same = select(LabelRow.task).where(
            LabelRow.project == project, LabelRow.label == label, LabelRow.task == first.task
        )
        query = query.where(same.exists())
    return query, col(first.task)


def _place(wanted: Wanted) -> list[str | int]:
    """Where a cursor points.

    Raises:
        InvalidRequest: it is not one of this order.
    """
    assert wanted.after is not None
    name = wanted.sort.removeprefix("-")
    if name == "created":
        return [wanted.after]
    value, mark, task_id = wanted.after.rpartition("~")
    if not mark or (name == "priority" and not value.lstrip("-").isdigit()):
        raise InvalidRequest(
            f"{wanted.after!r} is no place in a list sorted by {wanted.sort}; say `next` of the page before",
            code="cursor_invalid", param="after",
        )  # fmt: skip
    return [int(value) if name == "priority" else value, task_id]
