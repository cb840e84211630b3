"""The preparing engine: datasets in, one or two out, the same bytes each time, nothing half done."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canonical_builders import CANONICAL, canonical_file, chat, pair, prepared, source, text
from pydantic import ValidationError

from finery_contracts.cleansing import faults_of
from finery_contracts.datasets import DataKind
from finery_contracts.jobs import EngineJob, JobResult
from finery_contracts.preparing import PrepareSpec
from finery_dataset_ingest.engine import prepare
from finery_dataset_ingest.engine.canonical import CanonicalWriter
from finery_dataset_ingest.engine.tables import SHELF_SCHEMA
from finery_ml.job import run

CHAIN: list[dict[str, Any]] = [
    {"step": "missing"}, {"step": "exact_duplicates"}, {"step": "near_duplicates"}, {"step": "personal"},
    {"step": "length", "min": 3}, {"step": "mix", "weights": [1, 3], "when_short": "repeat"}, {"step": "shuffle"},
    {"step": "split", "validation": 0.2},
]  # fmt: skip


def industry(folder: Path, count: int = 30) -> Path:
    return canonical_file(
        folder / "industry.parquet", [chat(f"machine {n} of {n * n} stops", "call a@x.org") for n in range(count)]
    )


def general(folder: Path, count: int = 120) -> Path:
    records = [chat(f"what is {n} plus {n * 7 % 31}", f"it makes {n + n * 7 % 31}") for n in range(count)]
    return canonical_file(folder / "general.parquet", records)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_records_steps_and_seed_give_the_same_bytes_however_they_are_batched(tmp_path: Path) -> None:
    sources = [industry(tmp_path), general(tmp_path)]
    spec = PrepareSpec.model_validate({"sources": [source(p).model_dump() for p in sources], "steps": CHAIN, "seed": 3})
    digests = []
    for size in (1, 7, 64, 1024):
        folder = tmp_path / f"job-{size}"
        folder.mkdir()
        job = EngineJob(task_id="t", attempt=1, project_id="p", spec=spec)
        (folder / "job.json").write_text(job.model_dump_json())
        assert run(partial(prepare.prepare, batch_records=size), [str(folder)]) == 0
        output: Any = JobResult.model_validate_json((folder / "result.json").read_bytes()).output
        files = [
            folder / "out" / name for name in ("records.parquet", "validation.parquet", "report.json", "examples.jsonl")
        ]
        digests.append([sha(path) for path in files])
        assert digests[-1][:2] == [output.content_sha256, output.validation_sha256]
    assert digests[1:] == digests[:1] * 3
    other = prepared(tmp_path / "other-seed", sources, CHAIN, seed=4)
    assert other.output.content_sha256 != digests[0][0]


def test_row_groups_end_where_the_records_say(tmp_path: Path) -> None:
    rows = [{"messages": [], "text": "x" * (n % 90), "line": n, "_input": 0} for n in range(25_000)]
    whole = pa.RecordBatch.from_pylist(rows, schema=SHELF_SCHEMA)
    digests = set()
    for size in (999, 10_000, 25_000):
        writer = CanonicalWriter(tmp_path / f"{size}.parquet", DataKind.TEXT)
        for start in range(0, 25_000, size):
            writer.add(whole.slice(start, size))
        digests.add(writer.publish())
        file = pq.ParquetFile(tmp_path / f"{size}.parquet")
        assert [file.metadata.row_group(n).num_rows for n in range(3)] == [10_000, 10_000, 5_000]
    assert len(digests) == 1


def test_every_step_tells_what_it_did_and_shows_some_of_it(tmp_path: Path) -> None:
    records = [chat("call 13812345678 now", "I will"), chat("Call 13812345678  NOW", "i will"), chat("too short", "")]
    made = prepared(
        tmp_path / "job", [canonical_file(tmp_path / "a.parquet", records)],
        [{"step": "missing"}, {"step": "exact_duplicates"}, {"step": "personal"}],
    )  # fmt: skip
    told = [(r.step, r.records_in, r.records_out, r.removed, r.changed, r.reasons) for r in made.output.steps]
    assert told == [
        ("missing", 3, 2, 1, 0, {"empty_side": 1}), ("exact_duplicates", 2, 1, 1, 0, {"exact_duplicate": 1}),
        ("personal", 1, 1, 0, 1, {"phone": 1}),
    ]  # fmt: skip
    report = json.loads((made.folder / "out" / "report.json").read_text())
    assert [step["parameters"] for step in report["steps"]][1] == {"of": "record", "normalise": True}
    shown = [json.loads(line) for line in (made.folder / "out" / "examples.jsonl").read_text("utf-8").splitlines()]
    assert [(one["place"], one["outcome"], one["reason"], one["line"], one["source"]) for one in shown] == [
        (1, "removed", "empty_side", 3, "ds_a"), (2, "removed", "exact_duplicate", 2, "ds_a"),
        (3, "changed", "phone", 1, "ds_a"),
    ]  # fmt: skip
    assert shown[2]["text"] == "call [PHONE] now\nI will"
    assert made.questions() == ["call [PHONE] now"]


def test_each_side_of_a_split_has_its_own_statistics(tmp_path: Path) -> None:
    records = [chat(f"question {n}", "an answer") for n in range(10)]
    made = prepared(
        tmp_path / "job", [canonical_file(tmp_path / "a.parquet", records)], [{"step": "split", "validation": 0.3}]
    )
    told = [json.loads((made.folder / "out" / f"{name}.json").read_text()) for name in ("stats", "validation_stats")]
    assert [one["records"] for one in told] == [7, 3]
    assert [one["characters"]["assistant"] for one in told] == [63, 27]


def test_what_is_written_is_canonical_and_says_where_each_record_came_from(tmp_path: Path) -> None:
    old = canonical_file(tmp_path / "old.parquet", [chat("first version", "yes")], version=1)
    new = canonical_file(tmp_path / "new.parquet", [chat("second version", "no", source="ds_origin", file="f.csv")])
    made = prepared(tmp_path / "job", [old, new], [])
    table = pq.read_table(tmp_path / "job" / "out" / "records.parquet")
    assert table.schema.equals(CANONICAL)
    assert table.schema.metadata == {b"finery.canonical": b"2", b"finery.kind": b"messages"}
    assert [(r["source"], r["file"], r["line"]) for r in made.rows()] == [
        ("ds_old", None, 1),
        ("ds_origin", "f.csv", 1),
    ]
    assert [(s.dataset, s.version, s.records) for s in made.output.sources] == [("ds_old", 2, 1), ("ds_new", 2, 1)]
    assert made.output.warnings == ["There are 2 samples; under 2000 a tuned model rarely generalises."]
    assert not (made.folder / "shelves").exists()


@pytest.mark.parametrize(
    ("holds", "records"),
    [
        ("preference", [pair("q", "good", "bad"), pair("Q ", "Good", "bad"), pair("q", "bad", "good")]),
        ("text", [text("some words"), text("Some  words"), text("other words")]),
        ("answer", [{**chat("1+1"), "answer": "2"}, {**chat("1+1"), "answer": "2"}, {**chat("1+1"), "answer": "3"}]),
        ("feedback", [chat("a", label=True), chat("A", label=True), chat("a", label=False)]),
    ],
)
def test_every_kind_of_record_comes_through_whole(tmp_path: Path, holds: str, records: list[dict[str, Any]]) -> None:
    path = canonical_file(tmp_path / "a.parquet", records, holds=holds)
    made = prepared(tmp_path / "job", [path], [{"step": "personal"}, {"step": "exact_duplicates"}])
    before = pq.read_table(path).to_pylist()
    assert [{**row, "source": None} for row in made.rows()] == [before[0], before[2]]
    assert made.output.holds == holds


def test_kinds_are_not_mixed_and_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    talks, texts = industry(tmp_path), canonical_file(tmp_path / "t.parquet", [text("a")], holds="text")
    refused = prepared(tmp_path / "kinds", [talks, texts], [])
    assert (refused.status, refused.result.error.code) == (2, "kinds_differ")  # type: ignore[union-attr]
    emptied = prepared(tmp_path / "empty", [talks], [{"step": "length", "min": 10_000}])
    assert emptied.result.error is not None
    assert emptied.result.error.code == "dataset_empty"
    assert "length removed all 30 that were there: too_short (30)" in emptied.result.error.message
    slow = prepared(tmp_path / "late", [talks], [{"step": "shuffle"}, {"step": "split", "validation": 0.001}])
    assert slow.result.error is not None
    assert slow.result.error.code == "split_empty"
    for failed in (refused, emptied, slow):
        assert [path.name for path in (failed.folder / "out").iterdir()] == []
        assert not (failed.folder / "shelves").exists()


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    refused = prepared(tmp_path / "job", [tmp_path / "a.parquet"], [])
    assert (refused.status, refused.result.error.code) == (2, "canonical_file_unreadable")  # type: ignore[union-attr]


def test_an_evaluation_set_is_named_by_its_record(tmp_path: Path) -> None:
    test = canonical_file(tmp_path / "exam.parquet", [chat("How many legs has a spider?", "eight")])
    own = canonical_file(tmp_path / "a.parquet", [chat("how many legs has a spider?", "8"), chat("hi")])
    steps = [{"step": "contamination", "against": ["exam"]}]
    made = prepared(tmp_path / "job", [own], steps, references=[source(test).model_dump()])
    shown = json.loads((made.folder / "out" / "examples.jsonl").read_text())
    assert (shown["reason"], shown["detail"]) == ("contaminated_prompt", "the prompt of exam, line 1")
    assert made.questions() == ["hi"]


def test_tokens_are_those_of_the_models_own_template(tmp_path: Path, smollm2_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_tokenizer)
    records = [chat("a " * n, "yes") for n in (1, 20, 60)]
    lengths = [len(tokenizer.apply_chat_template(r["messages"], tokenize=True, return_dict=False)) for r in records]
    made = prepared(
        tmp_path / "job", [canonical_file(tmp_path / "a.parquet", records)],
        [{"step": "length", "unit": "tokens", "min": lengths[1], "max": lengths[1]}], model=str(smollm2_tokenizer),
    )  # fmt: skip
    assert made.questions() == [records[1]["messages"][0]["content"]]


def test_a_step_or_parameter_that_is_unknown_is_refused_all_at_once() -> None:
    steps = [{"step": "lenght"}, {"step": "sample"}, {"step": "near_duplicates", "threshold": 2, "shingles": 3}]
    with pytest.raises(ValidationError) as fault:
        PrepareSpec.model_validate({"sources": [], "steps": steps})
    places = {error["loc"][:2] + error["loc"][-1:] for error in fault.value.errors()}
    assert places == {
        ("steps", 0, 0), ("steps", 1, "sample"), ("steps", 2, "threshold"), ("steps", 2, "shingles"),
    }  # fmt: skip


def test_a_chain_that_cannot_be_is_told_apart_by_place() -> None:
    spec = PrepareSpec.model_validate(
        {"sources": [], "steps": [
            {"step": "split"}, {"step": "mix", "weights": [1]}, {"step": "mix", "weights": [1, 2]},
            {"step": "length", "unit": "tokens", "max": 5},
        ]}
    )  # fmt: skip
    found = [(place, field) for place, field, _ in faults_of(spec.steps, datasets=2, has_model=False)]
    assert found == [(0, "step"), (1, "weights"), (2, "step"), (3, "unit")]
