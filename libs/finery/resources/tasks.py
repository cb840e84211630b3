"""Tasks: submit, watch, stop, read back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from pydantic import Field

from finery.errors import TaskDidNotSucceed
from finery.transport import Page, Transport, every
from finery_contracts.model import Record
from finery_contracts.tasks import TaskState, TaskView
from finery_contracts.work import LogLine, MetricPoint

FIRST_POLL_S, LAST_POLL_S = 0.2, 1.0
PATH = "/api/v1/tasks"


class StoredPoint(MetricPoint):
    """A point of a curve; ``seq`` is the cursor."""

    seq: int


class StoredLine(LogLine):
    """A line of a log; ``seq`` is the cursor."""

    seq: int


class SpanView(Record):
    """One span of a trace; times in nanoseconds since 1970."""

    span_id: str
    parent_id: str | None
    service: str | None
    name: str
    start_ns: int
    end_ns: int
    error: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


class Trace(Record):
    """The spans of one cause, by start."""

    trace_id: str
    spans: list[SpanView]


class Tasks:
    """``client.tasks``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, body: Mapping[str, Any]) -> TaskView:
        """Start a task. ``body``: as ``POST /api/v1/tasks`` takes it, with ``kind`` tune, evaluate or validate."""
        return self._transport.view(TaskView, "POST", PATH, json=dict(body))

    def get(self, task_id: str) -> TaskView:
        """One task as it is now."""
        return self._transport.view(TaskView, "GET", f"{PATH}/{task_id}")

    def list(
        self, *, kind: str | None = None, state: str | None = None, search: str | None = None, pool: str | None = None,
        user: str | None = None, metadata: Mapping[str, str] | None = None, sort: str = "-created", limit: int = 20,
        after: str | None = None,
    ) -> Page[TaskView]:  # fmt: skip
        """Newest first, or by ``sort``: created, name, state, priority, with ``-`` the other way round."""
        labels = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        return self._transport.page(
            TaskView, PATH, kind=kind, state=state, search=search, pool=pool, user=user, sort=sort, limit=limit,
            after=after, **labels,
        )  # fmt: skip

    def all(self, *, kind: str | None = None, state: str | None = None) -> Iterator[TaskView]:
        """Every task, newest first, page by page."""
        return every(lambda after: self.list(kind=kind, state=state, limit=100, after=after))

    def wait(
        self, task_id: str, *, on_progress: Callable[[TaskView], None] | None = None, timeout_s: float | None = None,
        check: bool = True,
    ) -> TaskView:  # fmt: skip
        """The task, once it has ended. ``on_progress`` is called with every picture that was fetched.

        Raises:
            TaskDidNotSucceed: it failed or was terminated (not with ``check=False``).
            TimeoutError: it had not ended after ``timeout_s``; it goes on.
        """
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        pause_s = FIRST_POLL_S
        while True:
            task = self.get(task_id)
            if on_progress is not None:
                on_progress(task)
            if task.state.ended:
                break
            if until is not None and time.monotonic() + pause_s > until:
                raise TimeoutError(f"task {task_id} is still {task.state} after {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.25)
        if check and task.state is not TaskState.SUCCEEDED:
            raise TaskDidNotSucceed(task)
        return task

    def terminate(self, task_id: str) -> TaskView:
        """Stop it; what was saved is kept."""
        return self._transport.view(TaskView, "POST", f"{PATH}/{task_id}/terminate")

    def pause(self, task_id: str) -> TaskView:
        """Let it rest; its last checkpoint is kept, nothing is billed meanwhile."""
        return self._transport.view(TaskView, "POST", f"{PATH}/{task_id}/pause")

    def resume(self, task_id: str) -> TaskView:
        """Let a paused task go on from its last checkpoint."""
        return self._transport.view(TaskView, "POST", f"{PATH}/{task_id}/resume")

    def settings(self, task_id: str) -> dict[str, Any]:
        """The body it was submitted with: what a copy begins from."""
        return self._transport.send("GET", f"{PATH}/{task_id}/settings").json()

    def copy(self, task_id: str, edits: Mapping[str, Any] | None = None) -> TaskView:
        """A new task with the same settings, those in ``edits`` replaced; None takes one away."""
        return self._transport.view(TaskView, "POST", f"{PATH}/{task_id}/copy", json=dict(edits or {}))

    def delete(self, task_id: str) -> None:
        """Remove an ended task. This cannot be undone."""
        self._transport.send("DELETE", f"{PATH}/{task_id}", params={"confirm": "DELETE"})

    def metrics(self, task_id: str, *, after: int = 0) -> Page[StoredPoint]:
        """The points of its curves."""
        return self._transport.page(StoredPoint, f"{PATH}/{task_id}/metrics", after=after)

    def logs(self, task_id: str, *, search: str | None = None, after: int = 0) -> Page[StoredLine]:
        """The engine's log so far."""
        return self._transport.page(StoredLine, f"{PATH}/{task_id}/logs", after=after, search=search)

    def follow_logs(self, task_id: str, *, after: int = 0) -> Iterator[StoredLine]:
        """Lines as they come, until the task has ended."""
        asked = {"follow": True, "after": after}
        with self._transport.stream("GET", f"{PATH}/{task_id}/logs", params=asked) as answer:
            for line in answer.iter_lines():
                if line:
                    yield StoredLine.model_validate_json(line)

    def trace(self, task_id: str) -> Trace:
        """The spans of the task's trace, from the request that made it to the webhook."""
        return self._transport.view(Trace, "GET", f"{PATH}/{task_id}/trace")

    def artefact(self, task_id: str, path: str) -> bytes:
        """A file that the task left, such as ``out/samples.jsonl``."""
        return self._transport.send("GET", f"{PATH}/{task_id}/artefact/{path}").content


def request_of(text: str) -> dict[str, Any]:
    """A task body from a person's JSON.

    Raises:
        ValueError: it is no JSON object; the message names line and column.
    """
    try:
        body: object = json.loads(text)
    except json.JSONDecodeError as fault:
        raise ValueError(f"line {fault.lineno}, column {fault.colno}: {fault.msg}") from fault
    if not isinstance(body, dict):
        raise ValueError('a task is a JSON object such as {"kind": "tune", "model": …, "dataset": …}')
    return cast("dict[str, Any]", body)
