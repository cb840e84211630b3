"""Arrays and pretty-printed files with a damaged element: what is read on behind it, and what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ingest_builders import ingest, message, record

DAMAGED = {
    "a bare word": ('"third"', "third"),
    "a text that is not closed": ('"third"', '"third'),
    "a bracket that is not closed": ('"third"}', '"third"'),
    "a comma too many": ('"third"', '"third",'),
    "single quotes": ('"third"', "'third'"),
    "no number": ('"third"', "NaN"),
    "a line break in a text": ('"third"', '"thi\nrd"'),
    "an escape that is none": ('"third"', '"thi\\xrd"'),
    "a colon that is missing": ('"content": "third"', '"content" "third"'),
    "a key twice, then a bare word": ('"content": "third"', '"content": "a", "content": "b"}, {"x": y'),
}


def four() -> list[dict[str, Any]]:
    return [record(message("assistant", word)) for word in ("one", "two", "third", "four")]


def together(kind: str, records: list[dict[str, Any]]) -> str:
    if kind == "records one behind the other":
        return re.sub(r'"third"\s*}', '"third"}', "\n".join(json.dumps(one, indent=2) for one in records))
    if kind == "a record a line":
        return "[\n" + ",\n".join(map(json.dumps, records)) + "\n]"
    indent = {"compact": None, "flush": 0, "indented": 2}[kind]
    return re.sub(r'"third"\s*}', '"third"}', json.dumps(records, indent=indent))


@pytest.mark.parametrize("kind", ["compact", "flush", "indented", "a record a line", "records one behind the other"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_behind_a_damaged_element_the_next_one_is_read(tmp_path: Path, kind: str, damage: tuple[str, str]) -> None:
    content = together(kind, four())
    assert content.count(damage[0]) == 1

    done = ingest(tmp_path, content.replace(*damage), filename="p.json", bad_records="skip", bad_ceiling=0.25)

    assert done.status == 0
    assert [row["messages"][0]["content"] for row in done.rows] == ["one", "two", "four"]
    assert [row["line"] for row in done.rows] == [1, 2, 4]
    assert [fault["record"] for fault in done.faults] == [3]
    line = json.dumps(four()[:2], indent=2).count("\n") + 1
    assert kind != "indented" or done.faults[0]["line"] == line


def test_damaged_neighbours_are_told_apart_and_so_is_a_damaged_last_one(tmp_path: Path) -> None:
    content = json.dumps(four()).replace('"two"', "two").replace('"third"', "third").replace('"four"', "four")

    done = ingest(tmp_path, content, filename="p.json", bad_records="skip", bad_ceiling=0.75)

    assert [row["messages"][0]["content"] for row in done.rows] == ["one"]
    assert [fault["record"] for fault in done.faults] == [2, 3, 4]


def test_a_last_text_that_is_not_closed_swallows_no_neighbour(tmp_path: Path) -> None:
    content = json.dumps(four()).replace('"two"', '"two')

    done = ingest(tmp_path, content, filename="p.json", bad_records="skip", bad_ceiling=0.25)

    assert [row["messages"][0]["content"] for row in done.rows] == ["one", "third", "four"]
    both = content.replace('"third"', "third")
    assert ingest(tmp_path / "both", both, filename="p.json", bad_records="skip", bad_ceiling=1.0).status == 2


def test_an_object_inside_a_damaged_element_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in "abc"]
    records = [
        {"id": n, **record(message(content=f"q{n}"), message("assistant", None, tool_calls=calls))} for n in range(4)
    ]

    done = ingest(
        tmp_path, json.dumps(records).replace('"q1"', "q1"), filename="p.json", bad_records="skip", bad_ceiling=0.25
    )

    assert [row["messages"][0]["content"] for row in done.rows] == ["q0", "q2", "q3"]
    assert [fault["record"] for fault in done.faults] == [2]


def test_a_key_twice_before_endless_nesting_is_a_coded_error(tmp_path: Path) -> None:
    done = ingest(tmp_path, '[{"a": {"b": 1, "b": 2}, "c": ' + "[" * 100_000, filename="p.json")

    assert [fault["code"] for fault in done.faults] == ["nested_too_deep"]
