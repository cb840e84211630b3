"""OpenAI messages: what is taken, what is refused, and how each fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest_builders import call, ingest, lines, message, record

USER, ANSWER = message(), message("assistant", "Hi.")

GOOD: dict[str, Any] = {
    "two turns": record(USER, ANSWER),
    "a system message": record(message("system", "Be brief."), USER, ANSWER),
    "an empty system message": record(message("system", ""), USER, ANSWER),
    "a developer message": record(message("developer", "Be brief."), USER, ANSWER),
    "several turns": record(USER, ANSWER, USER, ANSWER),
    "text parts": record(message(content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]), ANSWER),
    "weights": record(USER, message("assistant", "No.", weight=0), USER, message("assistant", "Yes.", weight=1)),
    "names": record(message(name="Ann"), message("assistant", "Hi.", name="Bot")),
    "null where a key may be absent": record(USER, message("assistant", "Hi.", tool_calls=None, refusal=None)),
    "a call and its answer": record(
        USER, message("assistant", None, tool_calls=[call()]), message("tool", "rain", tool_call_id="call_1"), ANSWER
    ),
    "a call at the end": record(USER, {"role": "assistant", "tool_calls": [call()]}),
    "tools": record(USER, ANSWER, tools=[{"type": "function", "function": {"name": "f"}}], parallel_tool_calls=True),
    "an assistant alone": record(ANSWER),
}

BAD: dict[str, tuple[Any, str, str | None]] = {
    "a list": ([USER, ANSWER], "not_an_object", ""),
    "no messages": ({"question": "?", "answer": "!"}, "messages_missing", "messages"),
    "messages as text": ({"messages": "Hi"}, "messages_not_a_list", "messages"),
    "no message": ({"messages": []}, "messages_not_a_list", "messages"),
    "too many messages": (record(*[USER] * 2048, ANSWER), "too_many_messages", "messages"),
    "a text as message": (record("Hi", ANSWER), "message_not_an_object", "messages[0]"),
    "an unknown role": (record(message("human"), ANSWER), "role_unknown", "messages[0].role"),
    "a role that is a list": (record(message(["user"]), ANSWER), "role_unknown", "messages[0].role"),  # type: ignore[arg-type]
    "no role": (record({"content": "Hi"}, ANSWER), "role_unknown", "messages[0].role"),
    "an unknown key": (record(message(weigth=1), ANSWER), "unknown_key", "messages[0].weigth"),
    "weight on a user": (record(message(weight=1), ANSWER), "unknown_key", "messages[0].weight"),
    "an empty question": (record(message(content=""), ANSWER), "content_empty", "messages[0].content"),
    "a blank answer": (record(USER, message("assistant", " \n")), "content_empty", "messages[1].content"),
    "a null answer": (record(USER, message("assistant", None)), "content_wrong_type", "messages[1].content"),
    "a number": (record(message(content=5), ANSWER), "content_wrong_type", "messages[0].content"),
    "no content": (record({"role": "user"}, ANSWER), "content_wrong_type", "messages[0].content"),
    "a picture": (
        record(message(content=[{"type": "image_url"}]), ANSWER),
        "content_part_not_supported",
        "messages[0].content[0]",
    ),
    "weight two": (record(USER, message("assistant", "x", weight=2)), "weight_invalid", "messages[1].weight"),
    "weight true": (record(USER, message("assistant", "x", weight=True)), "weight_invalid", "messages[1].weight"),
    "weight zero everywhere": (record(USER, message("assistant", "x", weight=0)), "nothing_trains", "messages"),
    "a name that is a number": (record(message(name=5), ANSWER), "name_invalid", "messages[0].name"),
    "a refusal": (record(USER, message("assistant", "x", refusal="no")), "key_not_supported", "messages[1].refusal"),
    "no answer": (record(USER), "assistant_missing", "messages"),
    "a question at the end": (record(USER, ANSWER, USER), "last_message_not_assistant", "messages[2].role"),
    "no calls in the list": (
        record(USER, message("assistant", "x", tool_calls=[])),
        "tool_calls_invalid",
        "messages[1].tool_calls",
    ),
    "arguments as object": (
        record(USER, message("assistant", None, tool_calls=[call({"city": "Graz"})])),
        "tool_calls_invalid",
        "messages[1].tool_calls[0].function.arguments",
    ),
    "a call without id": (
        record(USER, message("assistant", None, tool_calls=[call(id=None)])),
        "tool_calls_invalid",
        "messages[1].tool_calls[0]",
    ),
    "a tool's answer without id": (
        record(USER, message("tool", "rain"), ANSWER),
        "tool_call_id_missing",
        "messages[1].tool_call_id",
    ),
    "a tool's answer to nothing": (
        record(USER, message("tool", "rain", tool_call_id="call_9"), ANSWER),
        "tool_call_unknown",
        "messages[1].tool_call_id",
    ),
    "tools without name": (record(USER, ANSWER, tools=[{"type": "function"}]), "tools_invalid", "tools[0]"),
}


@pytest.mark.parametrize("one", GOOD.values(), ids=GOOD.keys())
def test_a_good_record_is_taken(tmp_path: Path, one: Any) -> None:
    done = ingest(tmp_path, lines(one))

    assert done.status == 0, done.faults
    assert [len(row["messages"]) for row in done.rows] == [len(one["messages"])]


@pytest.mark.parametrize(("one", "code", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_record_is_named_with_line_and_field(tmp_path: Path, one: Any, code: str, field: str | None) -> None:
    done = ingest(tmp_path, lines(record(), one))

    assert done.status == 2
    assert done.first_fault == (code, 2, field)
    assert done.faults[0]["reason"]
    assert done.faults[0]["remedy"]


TEXTS: dict[str, tuple[bytes, str, int]] = {
    "broken JSON": (b'{"messages": [}\n', "invalid_json", 1),
    "two values on a line": (lines(record()).strip().encode() + b" {}\n", "invalid_json", 1),
    "NaN": (b'{"messages": NaN}\n', "invalid_json", 1),
    "a key twice": (b'{"messages": [], "messages": []}\n', "duplicate_key", 1),
    "too deep": (b'{"a":' + b"[" * 100_000 + b"\n", "nested_too_deep", 1),
    "Latin-1": (lines(record()).encode() + '{"messages": "ü"}\n'.encode("latin-1"), "invalid_utf8", 2),
    "half a surrogate": (
        b'{"messages":[{"role":"user","content":"\\ud800"},{"role":"assistant","content":"x"}]}\n',
        "text_not_unicode",
        1,
    ),
    "a line of 17 MB": (b'{"a":"' + b"x" * (17 * 2**20) + b'"}\n' + lines(record()).encode(), "record_too_long", 1),
}


@pytest.mark.parametrize(("content", "code", "line"), TEXTS.values(), ids=TEXTS.keys())
def test_damaged_text_is_named_by_line(tmp_path: Path, content: bytes, code: str, line: int) -> None:
    done = ingest(tmp_path, content)

    assert (done.faults[0]["code"], done.faults[0]["line"]) == (code, line)
    assert len(done.faults) == 1


def test_a_number_of_thousands_of_digits_is_told_without_pythons_own_words(tmp_path: Path) -> None:
    done = ingest(tmp_path, '{"messages": ' + "9" * 5_000 + "}\n")

    assert done.faults[0]["reason"] == "it is not JSON: a number has thousands of digits"


def test_broken_json_says_the_column(tmp_path: Path) -> None:
    done = ingest(tmp_path, '{"messages": oops}\n')

    assert "character 14" in done.faults[0]["reason"]


def test_every_fault_of_a_record_is_named_and_the_record_counts_once(tmp_path: Path) -> None:
    done = ingest(tmp_path, lines(record(message("human"), message("assistant", ""))))

    assert [fault["code"] for fault in done.faults] == ["role_unknown", "content_empty"]
    assert done.result.error is not None
    assert "1 bad record in all" in done.result.error.message


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n  \n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_endings_empty_lines_and_byte_order_marks_do_not_matter(tmp_path: Path, ending: str, bom: bytes) -> None:
    content = bom + ending.join(json.dumps(record()) for _ in range(3)).encode()

    done = ingest(tmp_path, content)

    assert done.status == 0
    assert done.rows[0]["line"] == 1
    assert len(done.rows) == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_gives_the_same_bytes_as_lines(tmp_path: Path, indent: int | None) -> None:
    records = [record(message(content=f"Frage {n} – 你好 \n")) | record() for n in range(50)]

    as_lines = ingest(tmp_path / "a", lines(*records))
    as_array = ingest(tmp_path / "b", json.dumps(records, indent=indent, ensure_ascii=False), filename="people.json")

    assert as_array.status == 0
    assert as_array.result.output is not None
    assert as_lines.result.output is not None
    assert as_array.result.output.content_sha256 == as_lines.result.output.content_sha256


def test_an_array_element_longer_than_the_window_is_read_whole(tmp_path: Path) -> None:
    long = record(message(content="x" * 5_000_000), ANSWER)

    done = ingest(tmp_path, json.dumps([record(), long, record()]))

    assert [len(row["messages"][0]["content"]) for row in done.rows] == [6, 5_000_000, 6]


def test_a_bad_array_element_is_named_by_place_and_line(tmp_path: Path) -> None:
    done = ingest(tmp_path, "[\n" + json.dumps(record()) + ",\n" + json.dumps({"text": "x"}) + "\n]")

    fault = done.faults[0]
    assert (fault["record"], fault["line"], fault["code"]) == (2, 3, "messages_missing")


def test_a_duplicate_key_in_an_array_spoils_its_record_alone(tmp_path: Path) -> None:
    good = json.dumps(record())
    done = ingest(tmp_path, f'[{good},{{"a": 1, "a": 2}},{good}]', bad_records="skip", bad_ceiling=0.5)

    assert done.status == 0
    assert [row["line"] for row in done.rows] == [1, 3]


BROKEN_ARRAYS: dict[str, str] = {
    "breaks off in an element": "[" + json.dumps(record()) + ', {"messages": [',
    "breaks off behind an element": "[" + json.dumps(record()),
    "lacks a comma": "[" + json.dumps(record()) + " " + json.dumps(record()) + "]",
    "goes on behind its end": "[" + json.dumps(record()) + "] 5",
    "breaks off where its last element is damaged": json.dumps([record()] * 2).replace("Hi", '"Hi', 1)[:-2],
    "ends with an element whose text is not closed": json.dumps([record()])[:-1] + ', {"messages": [{"role": "user]}]',
    "holds a bad word": "[" + json.dumps(record()) + ", oops]",
    "ends with a comma": "[" + json.dumps(record()) + ",]",
    "is too deep": "[" + json.dumps(record()) + "," + "[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS.keys())
def test_a_broken_array_fails_even_when_bad_records_are_skipped(tmp_path: Path, content: str) -> None:
    done = ingest(tmp_path, content, bad_records="skip", bad_ceiling=1.0)

    assert done.status == 2
    assert done.result.error is not None
    assert "cannot be read any further" in done.result.error.message
    assert not (done.folder / "out" / "records.parquet").exists()
