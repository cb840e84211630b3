"""The engine as a whole: formats, strict and skip, canonical bytes, memory, and what it must not import."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ingest_builders import ingest, lines, message, record

from finery_contracts.datasets import DataKind
from finery_contracts.jobs import IngestOutput
from finery_dataset_ingest.engine.canonical import schema_of
from finery_ml.records import read_conversations

CSV = "conversation_id,human,assistant\n1,a,b\n"
REFUSED: dict[str, tuple[bytes, dict[str, object], str]] = {
    "CSV stated, JSON found": (lines(record()).encode(), {"format": "csv"}, "format_mismatch"),
    "JSON stated, CSV found": (CSV.encode(), {"format": "openai"}, "format_mismatch"),
    "JSON stated, prose found": (b"Dear all,\n", {"format": "openai"}, "format_mismatch"),
    "prose": (b"Dear all,\n", {}, "format_unknown"),
    "half a ZIP": (b"PK\x03\x04rest", {"format": "csv"}, "archive_damaged"),
    "UTF-16": ("﻿{}".encode("utf-16"), {}, "format_unknown"),
    "nothing": (b"", {}, "dataset_empty"),
    "white space": (b"\xef\xbb\xbf \n\n", {}, "dataset_empty"),
    "an empty array": (b"[ ]", {}, "dataset_empty"),
    "a header alone": (b"conversation_id,human,assistant\n", {}, "dataset_empty"),
    "a large file": (lines(record()).encode(), {"max_bytes": 10}, "file_too_large"),
}


@pytest.mark.parametrize(("content", "spec", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_cannot_be_used_is_refused_by_code(
    tmp_path: Path, content: bytes, spec: dict[str, object], code: str
) -> None:
    done = ingest(tmp_path, content, **spec)

    assert done.status == 2
    assert done.result.error is not None
    assert done.result.error.code == code


def test_strict_names_the_first_fault_and_publishes_nothing(tmp_path: Path) -> None:
    bad = record(message(), message("assistant", ""))

    done = ingest(tmp_path, lines(record(), bad, record(), bad))

    assert done.result.error is not None
    assert done.result.error.code == "invalid_training_file"
    assert done.result.error.message.startswith("line 2: messages[1].content is empty")
    assert "2 bad records in all" in done.result.error.message
    assert [fault["line"] for fault in done.result.error.details] == [2, 4]
    assert sorted(path.name for path in (done.folder / "out").iterdir()) == ["report.jsonl"]


@pytest.mark.parametrize(("ceiling", "status"), [(0.25, 0), (0.24, 2)])
def test_skip_accepts_bad_records_up_to_its_ceiling(tmp_path: Path, ceiling: float, status: int) -> None:
    content = lines(record(), record(), record(), {"text": "x"})

    done = ingest(tmp_path, content, bad_records="skip", bad_ceiling=ceiling)

    assert done.status == status
    assert len(done.faults) == 1
    if done.result.error is not None:
        assert "25.0% of 4" in done.result.error.message


def test_where_no_record_is_good_the_first_fault_is_the_reason(tmp_path: Path) -> None:
    done = ingest(tmp_path, lines({"messages": 1}, {"messages": 2}), bad_records="skip", bad_ceiling=1.0)

    assert done.result.error is not None
    assert done.result.error.code == "invalid_training_file"
    assert done.result.error.message.startswith("line 1: messages is a number")
    assert len(done.result.error.details) == 2


def test_only_the_first_thousand_faults_travel_and_the_report_holds_all(tmp_path: Path) -> None:
    done = ingest(tmp_path, lines(*[{"text": n} for n in range(1_200)]))

    assert done.result.error is not None
    assert len(done.result.error.details) == 1_000
    assert len(done.faults) == 1_200


def test_a_thousand_bad_records_travel_however_much_is_wrong_with_each_and_however_long_their_names(
    tmp_path: Path,
) -> None:
    """Three faults each; 240 characters of Chinese in the name of the file take 720 bytes, a thousand times."""
    bad = record(message(content=""), message("assistant", ""), message("nobody"))
    name = f"{'数' * 240}.jsonl"

    done = ingest(tmp_path / "a", lines(record(), *[bad] * 1_100), filename=name)
    skipped = ingest(
        tmp_path / "b", lines(record(), *[bad] * 1_100), filename=name, bad_records="skip", bad_ceiling=1.0
    )

    assert done.result.error is not None
    assert isinstance(skipped.result.output, IngestOutput)
    told = done.result.error.details
    assert [one["line"] for one in told] == [*range(2, 1_002)]
    assert [one.line for one in skipped.result.output.errors] == [*range(2, 1_002)]
    assert {one["code"] for one in told} == {"content_empty"}
    assert told[0]["file"].startswith("数数")
    assert len(json.dumps(told, ensure_ascii=False).encode()) < 448 * 2**10
    assert (len(done.faults), {fault["file"] for fault in done.faults}) == (3_300, {name})


def test_the_same_bytes_give_the_same_file_with_the_canonical_schema(tmp_path: Path) -> None:
    content = lines(*[record(message(content=f"{n}?"), message("assistant", "!")) for n in range(12_345)])

    first, second = ingest(tmp_path / "a", content), ingest(tmp_path / "b", content)

    files = [done.folder / "out" / "records.parquet" for done in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert first.result.output is not None
    assert first.result.output.content_sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert pq.read_schema(files[0]).equals(schema_of(DataKind.MESSAGES))
    assert pq.read_schema(files[0]).metadata == {b"finery.canonical": b"2", b"finery.kind": b"messages"}
    assert pq.ParquetFile(files[0]).metadata.num_row_groups == 2


def test_engines_read_back_what_was_written(tmp_path: Path) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    one = record(message("developer", "S"), message(name="Ann"), message("assistant", None, tool_calls=calls, weight=1))

    done = ingest(tmp_path, lines(one | {"tools": tools}))

    [[conversation]] = read_conversations(done.folder / "out" / "records.parquet")
    assert [turn.role for turn in conversation.messages] == ["system", "user", "assistant"]
    assert conversation.messages[1].name == "Ann"
    assert conversation.messages[2].tool_calls == tuple(calls)
    assert conversation.messages[2].weight == 1
    assert conversation.tools == tuple(tools)


def test_few_samples_and_ignored_keys_are_warned_of(tmp_path: Path) -> None:
    done = ingest(tmp_path, lines(record(source="crawl"), record()))

    assert done.result.output is not None
    assert any("under 2000" in warning for warning in done.result.output.warnings)
    assert any("source (1)" in warning for warning in done.result.output.warnings)


def test_statistics_count_roles_lengths_and_labels(tmp_path: Path) -> None:
    one, other = (record(message(content="abcd"), message("assistant", label)) for label in ("yes", "no"))

    done = ingest(tmp_path, lines(one, one, other))

    stats = json.loads((done.folder / "out" / "stats.json").read_text())
    assert stats["characters"] == {"assistant": 8, "user": 12}
    assert stats["lengths"] == [{"up_to_characters": 8, "records": 3}]
    assert stats["top_answers"][0] == {"answer": "yes", "records": 2}
    assert stats["turns"] == 6


@pytest.mark.parametrize(
    ("said", "language"),
    [
        ("do it now", "en"), ("A dog ate a bone", "en"), ("Can I come in?", "en"), ("o que é isso, por favor?", "pt"),
        ("Was ist das für ein Tier?", "de"), ("¿qué es esto y por qué?", "es"),
    ],
)  # fmt: skip
def test_the_chart_of_languages_knows_short_questions(tmp_path: Path, said: str, language: str) -> None:
    done = ingest(tmp_path, lines(record(message(content=said), message("assistant", "42"))))
    assert json.loads((done.folder / "out" / "stats.json").read_text())["languages"] == {language: 1.0}


def test_real_word_problems_come_through_whole(tmp_path: Path) -> None:
    problems = word_problems()
    records = [
        record(message(content=problem["question"]), message("assistant", problem["answer"])) for problem in problems
    ]

    done = ingest(tmp_path, lines(*records))

    rows = done.rows
    assert done.status == 0
    assert [row["messages"][1]["content"] for row in rows] == [problem["answer"] for problem in problems]


def word_problems() -> list[dict[str, str]]:
    """GSM8K where it lies beside the checkout, else problems of the same shape."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    path = Path(os.environ.get("FINERY_SHARED_DATA", beside)) / "gsm8k" / "test.jsonl"
    if path.is_file():
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{"question": f"{n} + {n}?\n", "answer": f"<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"} for n in range(1_319)]


def test_importing_the_engine_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, finery_dataset_ingest.engine.ingest;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas') if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "[]"


def test_a_termination_request_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finery_ml.job.watch_life_line", lambda stop: stop())

    done = ingest(tmp_path, lines(*[record()] * 6_000))

    assert done.status == 0
    assert done.result.status == "terminated"
    assert not list((done.folder / "out").glob("*.parquet*"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = [peak_bytes(tmp_path / str(count), count) for count in (30_000, 90_000)]

    assert peaks[1] < peaks[0] * 1.35


def peak_bytes(folder: Path, count: int) -> int:
    """Peak memory of an engine process of its own over ``count`` records of two kilobytes."""
    folder.mkdir()
    line = lines(record(message(content="x" * 1_000), message("assistant", "y" * 1_000)))
    (folder / "upload").write_text(line * count)
    spec = {"kind": "ingest", "source": str(folder / "upload"), "filename": "big.jsonl"}
    job = {"task_id": "task_1", "attempt": 1, "project_id": "proj_1", "spec": spec}
    (folder / "job.json").write_text(json.dumps(job))
    program = (
        "import re, sys; from finery_dataset_ingest.engine.ingest import main; code = main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024
