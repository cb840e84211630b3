"""The checker finds each kind of wrong that is planted into a history which is right."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import Verdict, judge, pending
from tests.chaos.history import History
from tests.chaos.load import NOTIFY, Wish

WISH = Wish("tune-1", "tune", 0, 0.0, None, 0.0)
Spoil = Callable[[History, Counter[tuple[str, int]]], Any]


def said(seq: int, fact: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"evt_{seq}",
        "type": f"io.finery.{fact}.v1",
        "subject": "task/t1",
        "nounversion": version,
        "data": data,
    }


def right() -> tuple[History, Counter[tuple[str, int]]]:
    """A task that was lost once, tried again, succeeded, was charged for and told of."""
    attempts = [{"number": n, "state": "ended"} for n in (1, 2)]
    task = {
        "id": "t1", "name": "tune-1", "kind": "tune", "state": "succeeded", "phase": None, "why_waiting": None,
        "version": 5, "attempts": attempts, "result": {}, "request": {}, "notify": NOTIFY, "flavour": "cpu",
        "instances": 1, "error": None,
    }  # fmt: skip
    intervals = [
        {"attempt": 1, "n": 1, "running_s": 7.5, "billed": False},
        {"attempt": 2, "n": 1, "running_s": 3.3, "billed": True},
    ]
    ended = [
        {"task": task, "attempt": attempts[interval["attempt"] - 1], "interval": interval} for interval in intervals
    ]
    events = [
        said(1, "task.created", 1, task), said(2, "task.attempt_ended", 2, ended[0]), said(3, "task.retrying", 3, task),
        said(4, "task.attempt_ended", 4, ended[1]), said(5, "task.succeeded", 5, task),
    ]  # fmt: skip
    # 3.3 s at 0.12 an hour
    line = {"id": "l1", "key": "task:t1:2:1", "noun": "task", "amount": "0.000110000", "event": "evt_4"}
    told = Counter({("succeeded", "t1"): 1})
    history = History("prj_1", events, [1, 2, 3, 4, 5], [task], [], [], [line], told, {"cpu": "0.12"})
    return copy.deepcopy(history), Counter({("t1", 1): 1, ("t1", 2): 1})


def verdict_of(history: History, starts: Counter[tuple[str, int]]) -> Verdict:
    return judge([history], [WISH], {"tune-1": "t1"}, starts)


def test_a_history_that_is_right_is_called_right() -> None:
    history, starts = right()
    assert list(verdict_of(history, starts).faults) == []
    assert pending(history) == []


PLANTED: dict[str, tuple[str, Spoil]] = {
    "a fact is missing": ("lost", lambda h, _: h.events.pop(2)),
    "the last fact is missing": ("lost", lambda h, _: h.events.pop()),
    "facts are out of order": ("lost", lambda h, _: h.events.insert(0, h.events.pop(1))),
    "a task is gone": ("lost", lambda h, _: h.tasks.clear()),
    "a task failed that ought to succeed": ("lost", lambda h, _: h.tasks[0].update(state="failed")),
    "nobody was told": ("lost", lambda h, _: h.delivered.clear()),  # type: ignore[attr-defined]
    "what it made is not there": ("lost", lambda h, _: h.tasks[0]["result"].update(model="mdl_1")),
    "a fact is there twice": ("doubled", lambda h, _: h.events.append(h.events[-1])),
    "a wish became two tasks": ("doubled", lambda h, _: h.tasks.append({**h.tasks[0], "id": "t2", "notify": None})),
    "an attempt was begun twice": ("doubled", lambda _, starts: starts.update({("t1", 2): 1})),
    "somebody was told in two messages": ("doubled", lambda h, _: h.delivered.update({("succeeded", "t1"): 2})),  # type: ignore[attr-defined]
    "a line is there twice": ("doubled", lambda h, _: h.lines.append(h.lines[0])),
    "two models have one name": (
        "doubled", lambda h, _: h.models.extend({"id": i, "name": "m", "version": 0} for i in "ab"),
    ),
    "it has no end": ("stuck", lambda h, _: h.tasks[0].update(state="running")),
    "a billionth too much is charged": ("misbilled", lambda h, _: h.lines[0].update(amount="0.000110001")),
    "a lost attempt is charged": (
        "misbilled", lambda h, _: h.lines.append({**h.lines[0], "key": "task:t1:1:1", "event": "evt_2"}),
    ),
    "nothing is charged": ("misbilled", lambda h, _: h.lines.clear()),
    "it is charged for what nobody said": ("misbilled", lambda h, _: h.lines[0].update(event="evt_9")),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_wrong_is_found_and_called_by_its_name(planted: str) -> None:
    name, spoil = PLANTED[planted]
    history, starts = right()

    spoil(history, starts)

    assert getattr(verdict_of(history, starts), name), planted


@pytest.mark.parametrize("planted", ["nobody was told", "it has no end", "nothing is charged"])
def test_what_has_yet_to_come_is_waited_for(planted: str) -> None:
    history, starts = right()
    PLANTED[planted][1](history, starts)
    assert pending(history)
