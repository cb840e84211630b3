"""Spans in a file: each service under its own name, engines under their own ids, one trace read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from finery_contracts import jobs
from finery_kit import telemetry
from finery_kit.telemetry import current_traceparent, export_engine_span, read_trace, span_from

TRACE = "ab" * 16
CALLER = f"00-{TRACE}-{'cd' * 8}-01"


@pytest.fixture
def spans(tmp_path: Path) -> Iterator[Path]:
    """The file of two services in one process."""
    file = tmp_path / "spans.jsonl"
    for service in ("one", "two"):
        telemetry.set_up(service, file=file, otlp_endpoint=None)
    yield file
    for service in ("one", "two"):
        telemetry.shut_down(service)


def flush() -> None:
    for service in ("one", "two"):
        telemetry.shut_down(service)


def test_a_trace_goes_through_services_and_an_engine_and_is_read_back_in_order(spans: Path) -> None:
    with span_from(CALLER, "one", "call", task_id="task_1"):
        header = current_traceparent()
        assert header is not None
        with span_from(header, "two", "work"):
            pass
    line = jobs.Span(
        name="engine.tune", trace_id=TRACE, span_id="ef" * 8, parent_id=header.split("-")[2], start_ns=2**62,
        end_ns=2**62 + 1, attributes={"attempt": 1}, error="DataInvalid",
    )  # fmt: skip
    export_engine_span("two", line)
    flush()

    read = read_trace(spans, TRACE)

    assert [(s["service"], s["name"]) for s in read] == [
        ("finery-one", "call"), ("finery-two", "work"), ("finery-two", "engine.tune"),
    ]  # fmt: skip
    call, work, engine = read
    assert call["parent_id"] == "cd" * 8
    assert work["parent_id"] == engine["parent_id"] == call["span_id"]
    assert (engine["span_id"], engine["error"], engine["attributes"]) == ("ef" * 8, "DataInvalid", {"attempt": 1})
    assert read_trace(spans, "00" * 16) == []


def test_a_fault_is_told_by_its_kind(spans: Path) -> None:
    with pytest.raises(ValueError, match="no"), span_from(CALLER, "one", "call"):
        raise ValueError("no")
    flush()
    assert "ValueError" in read_trace(spans, TRACE)[0]["error"]


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-é-1-01"])
def test_a_header_that_is_none_begins_a_new_trace(spans: Path, header: str) -> None:
    with span_from(header, "one", "call"):
        found = current_traceparent()
    assert found is not None
    assert TRACE not in found


def test_a_line_that_is_still_being_written_is_left_for_later(spans: Path) -> None:
    with span_from(CALLER, "one", "call"):
        pass
    flush()
    with spans.open("a") as file:
        file.write(f'{{"trace_id": "{TRACE}", "na')
    assert [span["name"] for span in read_trace(spans, TRACE)] == ["call"]


def test_a_full_file_is_turned_over_and_the_one_before_is_dropped(spans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MAX_FILE_BYTES", 10)
    with span_from(CALLER, "one", "first"):
        pass
    telemetry.shut_down("one")
    assert spans.with_suffix(".1.jsonl").exists()
    with span_from(CALLER, "two", "second"):
        pass
    telemetry.shut_down("two")
    names = [json.loads(line)["name"] for line in spans.with_suffix(".1.jsonl").read_text().splitlines()]
    assert names == ["second"]


def test_a_service_that_was_not_set_up_records_nothing_and_fails_nothing(tmp_path: Path) -> None:
    with span_from(None, "nobody", "call"):
        assert current_traceparent() is None
    export_engine_span(
        "nobody", jobs.Span(name="e", trace_id=TRACE, span_id="ef" * 8, parent_id=None, start_ns=1, end_ns=2)
    )
