"""Workbooks: what a cell shows is taken, what it only computes or pretends is refused by its row."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingest_builders import Ingested, ingest
from workbooks import NAMESPACE, number, row, sheet, text, workbook

GOOD_ROW = row(number("1"), text("Why?"), text("So."))


def contents(done: Ingested) -> list[list[str]]:
    return [[turn["content"] for turn in record["messages"]] for record in done.rows]


def read(folder: Path, *rows: str, behind: str = "", **spec: object) -> Ingested:
    return ingest(folder, workbook(sheet(*rows, behind=behind)), filename="people.xlsx", **spec)


def test_rows_of_one_id_become_one_conversation_in_file_order(tmp_path: Path) -> None:
    rows = [("2", "a", "b"), ("1", "c", "d"), ("3", "e", "f"), ("1", "g", "h"), ("1", "i", "j")]

    done = read(tmp_path, *(row(number(one), text(human), text(answer)) for one, human, answer in rows))

    assert contents(done) == [["a", "b"], ["c", "d", "g", "h", "i", "j"], ["e", "f"]]
    assert [record["line"] for record in done.rows] == [2, 3, 4]
    assert done.result.output is not None
    assert done.result.output.format == "xlsx"


@pytest.mark.parametrize(
    "one", [number("1"), number("1.0"), number("1E0"), text("1"), text(" 1 "), number("1", style=3)]
)
def test_an_id_is_a_number_or_the_text_of_one(tmp_path: Path, one: str) -> None:
    assert contents(read(tmp_path, row(one, text("a"), text("b")), row(number("1"), text("c"), text("d")))) == [
        list("abcd")
    ]


def test_shared_rich_and_escaped_texts_come_out_as_they_are_shown(tmp_path: Path) -> None:
    strings = (
        "<si><t>你好</t></si>"
        '<si><r><rPr><b/></rPr><t>bo</t></r><r><t xml:space="preserve">ld </t></r>'
        '<rPh sb="0" eb="1"><t>X</t></rPh></si>'
    )
    cells = '<c r="A2"><v>7</v></c><c r="B2" t="s"><v>0</v></c><c r="C2" t="s"><v>1</v></c>'
    other = '<c r="A9"><v>8</v></c><c r="B9" t="str"><v>a_x000A_b</v></c><c r="C9"><v>4.50</v></c>'
    made = sheet(f'<row r="2">{cells}</row>', f'<row r="9">{other}</row>')

    done = ingest(tmp_path, workbook(made, strings=strings), filename="people.xlsx")

    assert contents(done) == [["你好", "bold "], ["a\nb", "4.5"]]
    assert [record["line"] for record in done.rows] == [2, 9]


def test_columns_may_stand_anywhere_and_empty_rows_and_sheets_do_not_matter(tmp_path: Path) -> None:
    header = ("assistant", "conversation_id", "human")
    made = sheet("<row/>", row(text("So."), number("1"), text("Why?")), '<row><c s="1"/></row>', header=header)

    done = ingest(tmp_path, workbook(made, sheet(header=())), filename="people.xlsx")

    assert contents(done) == [["Why?", "So."]]


BAD: dict[str, tuple[str, str, str | None]] = {
    "a formula": (row("<c><f>1+1</f><v>2</v></c>", text("a"), text("b")), "cell_formula", "conversation_id"),
    "a formula without a value": (row(number("2"), "<c><f>A1</f></c>", text("b")), "cell_formula", "human"),
    "an error": (row(number("2"), '<c t="e"><v>#REF!</v></c>', text("b")), "cell_error", "human"),
    "a date": (row(number("2"), text("a"), number("45000", style=1)), "cell_date", "assistant"),
    "a date of one's own format": (row(number("2"), number("45000", style=2), text("b")), "cell_date", "human"),
    "a date as id": (row(number("3", style=1), text("a"), text("b")), "cell_date", "conversation_id"),
    "a percentage": (row(number("2"), text("a"), number("0.5", style=3)), "cell_format", "assistant"),
    "a truth value": (row(number("2"), text("a"), '<c t="b"><v>1</v></c>'), "cell_boolean", "assistant"),
    "an id of zero": (row(number("0"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "a negative id": (row(number("-1"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "half an id": (row(number("1.5"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "an id in words": (row(text("one"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "a huge id": (row(number("1e300"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "an infinite id": (row(number("inf"), text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "an id as Python writes one": (
        row(number("1_0"), text("a"), text("b")),
        "conversation_id_invalid",
        "conversation_id",
    ),
    "no id": (row("<c/>", text("a"), text("b")), "conversation_id_invalid", "conversation_id"),
    "no question": (row(number("2"), "<c/>", text("b")), "content_empty", "human"),
    "a blank answer": (row(number("2"), text("a"), text(" \n")), "content_empty", "assistant"),
    "a cell beside the columns": (row(number("2"), text("a"), text("b"), text("c")), "cell_surplus", None),
}


@pytest.mark.parametrize(("bad", "code", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_is_named(tmp_path: Path, bad: str, code: str, field: str | None) -> None:
    done = read(tmp_path, GOOD_ROW, bad)

    assert done.status == 2
    assert (done.faults[0]["code"], done.faults[0]["row"], done.faults[0].get("field")) == (code, 3, field)


def test_merged_cells_spoil_the_rows_they_touch(tmp_path: Path) -> None:
    rows = [row(number(str(one)), text("a"), text("b")) for one in range(1, 6)]
    merges = '<mergeCells count="1"><mergeCell ref="B3:B4"/></mergeCells>'

    done = read(tmp_path, *rows, behind=merges, bad_records="skip", bad_ceiling=0.5)

    assert [(fault["row"], fault["code"]) for fault in done.faults] == [(3, "cells_merged"), (4, "cells_merged")]
    assert [record["line"] for record in done.rows] == [2, 5, 6]


HEADERS = {
    "a column missing": (("conversation_id", "human"), "'assistant' is missing"),
    "a column too much": (("conversation_id", "human", "assistant", "mood"), "'mood' is not known"),
    "a column twice": (("conversation_id", "human", "assistant", "human"), "'human' stands twice"),
    "a column misspelt": (("conversation_id", "Human", "assistant"), "'human' is missing"),
}


@pytest.mark.parametrize(("header", "reason"), HEADERS.values(), ids=HEADERS.keys())
def test_wrong_columns_are_named(tmp_path: Path, header: tuple[str, ...], reason: str) -> None:
    made = workbook(sheet(GOOD_ROW, header=header))

    done = ingest(tmp_path, made, filename="people.xlsx", bad_records="skip", bad_ceiling=1.0)

    assert done.status == 2
    assert reason in done.faults[0]["reason"]


def test_a_second_sheet_with_cells_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    done = ingest(tmp_path, workbook(sheet(GOOD_ROW), sheet(GOOD_ROW)), filename="people.xlsx")

    assert done.result.error is not None
    assert done.result.error.code == "sheets_many"


def test_the_sheet_that_holds_cells_may_be_any(tmp_path: Path) -> None:
    empty = sheet(header=())

    done = ingest(tmp_path, workbook(empty, sheet(GOOD_ROW), empty), filename="people.xlsx")

    assert contents(done) == [["Why?", "So."]]


def test_prefixes_and_a_macro_beside_the_sheet_change_nothing(tmp_path: Path) -> None:
    plain = sheet(GOOD_ROW)
    prefixed = (
        plain.replace("<", "<x:").replace("<x:/", "</x:").replace(NAMESPACE, NAMESPACE.replace("xmlns", "xmlns:x"))
    )

    done = ingest(tmp_path, workbook(prefixed, more={"xl/vbaProject.bin": b"\xd0\xcf\x11\xe0"}), filename="x.xlsm")

    assert contents(done) == [["Why?", "So."]]
