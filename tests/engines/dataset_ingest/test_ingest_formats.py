"""Formats of records other than OpenAI's: what each becomes in canonical form, written by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_samples import BAD, FIRST, GOOD, KINDS, TURN, moss
from ingest_builders import Ingested, ingest, lines, message, record
from test_ingest_engine import word_problems

from finery_ml.records import kind_of, read_records


def said(row: dict[str, Any], column: str = "messages") -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in row[column]]


@pytest.mark.parametrize(("name", "one", "messages", "columns"), GOOD.values(), ids=GOOD.keys())
def test_a_record_is_recognised_and_becomes_canonical(
    tmp_path: Path, name: str, one: dict[str, Any], messages: list[tuple[str, str]], columns: dict[str, Any]
) -> None:
    done = ingest(tmp_path, lines(one, one))

    assert done.result.output is not None, done.faults
    assert (done.result.output.format, done.result.output.data_kind) == (name, KINDS.get(name, "messages"))
    row = done.rows[1]
    assert said(row) == messages
    assert row["line"] == 2
    for column in ("tools", "chosen", "rejected", "label", "answer", "text", "reward", "source", "file"):
        found = said(row, column) if column in ("chosen", "rejected") and row[column] else row[column]
        assert found == columns.get(column)


@pytest.mark.parametrize(("name", "one", "code", "field"), BAD.values(), ids=BAD.keys())
def test_what_would_need_a_guess_is_refused_with_its_field(
    tmp_path: Path, name: str, one: Any, code: str, field: str
) -> None:
    done = ingest(tmp_path, "".join(json.dumps(each) + "\n" for each in (FIRST[name], one)))

    assert done.status == 2
    assert done.first_fault == (code, 2, field)
    assert done.faults[0]["reason"]
    assert done.faults[0]["remedy"]
    assert not (done.folder / "out" / "records.parquet").exists()


@pytest.mark.parametrize("name", FIRST)
def test_a_record_of_another_format_is_a_bad_record(tmp_path: Path, name: str) -> None:
    other = record() if name != "text" else {"instruction": "a", "output": "b"}
    done = ingest(tmp_path, lines(FIRST[name], FIRST[name], other), bad_records="skip", bad_ceiling=0.4)

    assert done.status == 0
    assert (len(done.rows), len(done.faults), done.faults[0]["line"]) == (2, 1, 3)


@pytest.mark.parametrize("name", [*FIRST, "openai"])
@pytest.mark.parametrize("stated", ["openai", "moss", "csv", "alpaca", "sharegpt", "preference", "answer", "text"])
def test_a_statement_is_believed_when_right_and_an_error_when_wrong(tmp_path: Path, name: str, stated: str) -> None:
    done = ingest(tmp_path, lines(FIRST.get(name, record())), format=stated)

    if stated == name:
        assert done.status == 0
    else:
        assert done.result.error is not None
        assert done.result.error.code == "format_mismatch"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", FIRST)
def test_arrays_and_pretty_printed_records_give_what_lines_give(tmp_path: Path, name: str, indent: int | None) -> None:
    one = FIRST[name]
    written = [
        json.dumps([one, one], indent=indent, ensure_ascii=False),
        "\n".join(json.dumps(one, indent=indent or 1) for _ in range(2)),
    ]

    for number, text in enumerate(written):
        done = ingest(tmp_path / str(number), text, filename="x.json")
        assert done.status == 0, done.faults
        assert done.result.output is not None
        assert done.result.output.format == name
        assert len(done.rows) == 2


def test_a_pretty_printed_file_that_breaks_off_is_refused_whole(tmp_path: Path) -> None:
    text = json.dumps(moss(TURN), indent=1)

    done = ingest(tmp_path, text + "\n" + text[:-3], bad_records="skip", bad_ceiling=1.0)

    assert done.status == 2
    assert done.faults[0]["record"] == 2


@pytest.mark.parametrize("name", [*FIRST, "openai"])
def test_parquet_with_the_columns_of_a_format_is_read(tmp_path: Path, name: str) -> None:
    one = FIRST.get(name, record())
    table = pa.Table.from_pylist([one, one])
    pq.write_table(table, tmp_path / "x.parquet")

    done = ingest(tmp_path / "job", (tmp_path / "x.parquet").read_bytes(), filename="x.parquet")

    assert done.result.output is not None, done.result.error
    assert done.result.output.format == name
    assert done.rows[1]["line"] == 2


def test_gsm8k_is_prompts_with_a_verifiable_answer(tmp_path: Path) -> None:
    problems = word_problems()

    done = ingest(tmp_path, lines(*problems))

    assert done.result.output is not None
    assert (done.result.output.format, done.result.output.records) == ("answer", len(problems))
    path = done.folder / "out" / "records.parquet"
    read = [found for batch in read_records(path) for found in batch]
    assert kind_of(path) == "answer"
    assert [(one.messages[0].content, one.answer) for one in read] == [(p["question"], p["answer"]) for p in problems]


def test_a_text_file_is_one_document_a_paragraph(tmp_path: Path) -> None:
    done = ingest(tmp_path, "Erste Zeile\nzweite\n\n\n  \n第二段\n", filename="book.txt")

    assert [(row["text"], row["line"], row["messages"]) for row in done.rows] == [
        ("Erste Zeile\nzweite", 1, []),
        ("第二段", 6, []),
    ]


def stats_of(done: Ingested) -> dict[str, Any]:
    return json.loads((done.folder / "out" / "stats.json").read_text())


def test_statistics_tell_languages_turns_labels_and_duplicates(tmp_path: Path) -> None:
    zh = {"prompt": "天空是什么颜色的？", "completion": "天空是蓝色的。", "label": True}
    en = {"prompt": "What is the colour of the sky?", "completion": "It is blue.", "label": False}

    found = stats_of(ingest(tmp_path, lines(zh, en, en, en)))

    assert found["kind"] == "feedback"
    assert found["languages"] == {"en": 0.75, "zh": 0.25}
    assert (found["duplicates"], found["duplicates_exact"]) == (2, True)
    assert found["labels"] == {"dislike": 3, "like": 1}
    assert found["turns_per_record"] == [{"turns": 2, "records": 4}]
    assert found["messages"] == {"assistant": 4, "user": 4}


def test_records_that_differ_in_borders_or_roles_alone_are_no_duplicates(tmp_path: Path) -> None:
    borders = [record(message(content=a), message("assistant", b)) for a, b in (("ab", "c"), ("a", "bc"))]
    roles = [record(message(role, "a"), message(content="b"), message("assistant", "c")) for role in ("system", "user")]

    assert stats_of(ingest(tmp_path, lines(*borders, *roles)))["duplicates"] == 0


def test_a_label_that_is_no_verdict_makes_no_feedback_of_messages(tmp_path: Path) -> None:
    done = ingest(tmp_path, lines(record(label="greeting"), record(label="farewell")))

    assert done.result.output is not None
    assert done.result.output.format == "openai"
    assert any("label (2)" in warning for warning in done.result.output.warnings)
