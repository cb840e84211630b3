"""Tables: grouping into conversations, and faults by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingest_builders import Ingested, ingest

HEADER = "conversation_id,human,assistant\n"


def contents(done: Ingested) -> list[list[str]]:
    return [[turn["content"] for turn in row["messages"]] for row in done.rows]


def table(folder: Path, rows: str, **spec: object) -> Ingested:
    return ingest(folder, HEADER + rows, filename="people.csv", **spec)


def test_rows_that_share_an_id_become_one_conversation(tmp_path: Path) -> None:
    done = table(tmp_path, "7,a,b\n7,c,d\n9,e,f\n")

    assert contents(done) == [["a", "b", "c", "d"], ["e", "f"]]
    assert [row["line"] for row in done.rows] == [2, 4]


def test_scattered_rows_are_joined_where_the_first_of_them_stands(tmp_path: Path) -> None:
    done = table(tmp_path, "2,a,b\n1,c,d\n3,e,f\n1,g,h\n2,i,j\n")

    assert contents(done) == [["a", "b", "i", "j"], ["c", "d", "g", "h"], ["e", "f"]]


def test_columns_may_stand_in_any_order_and_cells_may_hold_lines(tmp_path: Path) -> None:
    done = ingest(tmp_path, '\ufeffassistant, human ,conversation_id\r\n"say ""hi""\r\nand, go",ask,1\r\n')

    assert contents(done) == [["ask", 'say "hi"\r\nand, go']]
    assert done.result.output is not None
    assert done.result.output.format == "csv"


ROWS: dict[str, tuple[str, str, int, str | None]] = {
    "a zero id": ("0,a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "a negative id": ("-1,a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "a broken number": ("1.5,a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "an id in other digits": ("\u0663,a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "a huge id": ("99999999999999999999,a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "no id": (",a,b\n", "conversation_id_invalid", 3, "conversation_id"),
    "an empty question": ("2,,b\n", "content_empty", 3, "human"),
    "a blank answer": ('2,a,"  "\n', "content_empty", 3, "assistant"),
    "too few cells": ("2,a\n", "cell_count", 3, None),
    "too many cells": ("2,a,b,c\n", "cell_count", 3, None),
    "a NUL byte": ("2,a\0,b\n", "nul_byte", 3, None),
    "text behind a quote": ('2,"a"x,b\n', "invalid_csv", 3, None),
    "an open quote": ('2,"a,b\n3,c,d\n', "invalid_csv", 3, None),
}


@pytest.mark.parametrize(("row", "code", "at", "field"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_named(tmp_path: Path, row: str, code: str, at: int, field: str | None) -> None:
    done = table(tmp_path, "1,a,b\n" + row)

    fault = done.faults[0]
    assert done.status == 2
    assert (fault["code"], fault["row"], fault["line"], fault.get("field")) == (code, at, 3, field)


def test_row_and_line_are_told_apart_when_cells_hold_lines(tmp_path: Path) -> None:
    done = table(tmp_path, '1,"a\nb\nc",d\n2,,x\n')

    assert (done.faults[0]["row"], done.faults[0]["line"]) == (3, 5)


def test_invalid_utf8_inside_a_cell_names_its_own_line(tmp_path: Path) -> None:
    done = ingest(tmp_path, HEADER.encode() + b'1,"a\n\xff",b\n2,c,d\n', bad_records="skip", bad_ceiling=0.5)

    assert (done.faults[0]["code"], done.faults[0]["row"], done.faults[0]["line"]) == ("invalid_utf8", 2, 3)
    assert contents(done) == [["c", "d"]]


@pytest.mark.parametrize("rows", ["1,a,b\n1,,d\n2,e,f\n", "1,a,b\n2,e,f\n1,,d\n", "1,a\n2,e,f\n1,c,d\n"])
def test_a_bad_row_spoils_its_whole_conversation(tmp_path: Path, rows: str) -> None:
    done = table(tmp_path, rows, bad_records="skip", bad_ceiling=0.5)

    assert done.status == 0
    assert contents(done) == [["e", "f"]]
    assert done.result.output is not None
    assert done.result.output.bad_records == 1


HEADERS: dict[str, tuple[str, str]] = {
    "a column missing": ("conversation_id,human\n", "'assistant' is missing"),
    "a column too much": ("conversation_id,human,assistant,mood\n", "'mood' is not known"),
    "a column misspelt": ("conversation_id,Human,assistant\n", "'human' is missing"),
    "a column twice": ("conversation_id,human,assistant,human\n", "'human' stands twice"),
}


@pytest.mark.parametrize(("header", "reason"), HEADERS.values(), ids=HEADERS.keys())
def test_wrong_columns_are_named(tmp_path: Path, header: str, reason: str) -> None:
    done = ingest(tmp_path, header + "1,a,b\n", bad_records="skip", bad_ceiling=1.0)

    assert done.status == 2
    assert reason in done.faults[0]["reason"]
    assert done.faults[0]["row"] == 1


def test_empty_lines_before_the_header_are_rows_without_cells(tmp_path: Path) -> None:
    done = ingest(tmp_path, "\n\n" + "conversation_id,human,assistant\n1,a,b\n", filename="p.csv")

    assert contents(done) == [["a", "b"]]


IDS = {
    "1.5": "is '1.5', not a positive",
    "0": "is '0', not a positive",
    "": "is empty",
    "9" * 30: "has 30 digits, more",
}


@pytest.mark.parametrize(("one", "reason"), IDS.items())
def test_an_id_that_is_none_is_shown(tmp_path: Path, one: str, reason: str) -> None:
    done = ingest(tmp_path, f"conversation_id,human,assistant\n{one},a,b\n")

    assert reason in done.faults[0]["reason"]


FIRST_LINES = {
    "conversation_id;human;assistant": "divided by semicolons",
    "conversation_id\thuman\tassistant": "divided by tabs",
    "Conversation,Question,Answer": "'Conversation,Question,Answer'",
}


@pytest.mark.parametrize(("line", "reason"), FIRST_LINES.items())
def test_a_first_line_that_is_no_header_is_shown(tmp_path: Path, line: str, reason: str) -> None:
    done = ingest(tmp_path, f"{line}\n1,a,b\n", filename="p.csv")

    assert done.result.error is not None
    assert (done.result.error.code, reason in done.result.error.message) == ("format_unknown", True)


def test_a_cell_without_end_ends_the_file_and_its_rest_is_not_read_as_rows(tmp_path: Path) -> None:
    cell = "x" * 100 + "\n"
    content = 'conversation_id,human,assistant\n1,a,b\n2,"' + cell * (2**24 // 100) + "3,c,d\n" * 9

    done = ingest(tmp_path, content, bad_records="skip", bad_ceiling=1.0)

    assert [(fault["code"], fault["row"]) for fault in done.faults] == [("record_too_long", 3)]
    assert done.status == 2
