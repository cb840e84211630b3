"""Datasets by their content: pages and statistics, kinds that do not fit, the same content kept once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import studio_rig as rig_module
from studio_rig import Rig

from finery_contracts.datasets import DataKind, DatasetStatistics, DatasetView
from finery_contracts.errors import ErrorBody, InvalidRequest
from finery_contracts.jobs import IngestOutput, TaskKind
from finery_contracts.tasks import EndReason

CALL = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def conversation(number: int) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "", "tool_calls": json.dumps(CALL)}
    return {"messages": [{"role": "user", "content": f"q{number}"}, answer], "line": number}


def write_canonical(path: Path, rows: list[dict[str, Any]], *, kind: str = "messages", group: int = 100) -> None:
    text = pa.string()
    parts = [("role", text), ("content", text), ("name", text), ("tool_calls", text), ("tool_call_id", text)]
    turns = pa.list_(pa.struct([*parts, ("weight", pa.int32())]))
    schema = pa.schema(
        [("messages", turns), ("tools", text), ("chosen", turns), ("rejected", turns), ("text", text),
         ("line", pa.int64())],
        metadata={"finery.canonical": "2", "finery.kind": kind},
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)


async def ready(
    studio: Rig, rows: list[dict[str, Any]], *, name: str = "a.jsonl", sha: str = "a" * 64, kind: str = "messages"
) -> DatasetView:
    """A dataset whose ingest left these records."""
    made = await studio.upload(name, sha=sha)
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    left = studio.studio.storage.place(f"store://{claim.project}/tasks/{claim.task_id}/{claim.attempt}/left") / "out"
    write_canonical(left / "records.parquet", rows, kind=kind)
    stats = DatasetStatistics(
        records=len(rows), turns=2, characters={"user": 2}, lengths=[], distinct_short_answers=0, top_answers=[]
    )
    (left / "stats.json").write_text(stats.model_dump_json())
    await studio.end(claim)
    return await studio.dataset(made.id)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(kind: DataKind, sha: str = "c" * 64) -> None:
        found = IngestOutput(format="x", data_kind=kind, records=3, bad_records=0, content_sha256=sha)
        monkeypatch.setitem(rig_module.OUTPUTS, TaskKind.INGEST, found)

    return choose


@pytest.mark.parametrize(
    ("offset", "limit", "expected", "following"),
    [(0, 3, [1, 2, 3], 3), (99, 3, [100, 101, 102], 102), (248, 20, [249, 250], None), (250, 5, [], None)],
)
async def test_any_page_of_records_is_read(
    studio: Rig, offset: int, limit: int, expected: list[int], following: int | None
) -> None:
    view = await ready(studio, [conversation(number) for number in range(1, 251)])

    async with studio.http() as api:
        page = (await api.get(f"/api/v1/datasets/{view.id}/records?offset={offset}&limit={limit}")).json()

    assert [row["line"] for row in page["data"]] == expected
    assert (page["total"], page.get("next"), page["kind"]) == (250, following, "messages")
    for row in page["data"]:
        answer = {"role": "assistant", "content": "", "tool_calls": CALL}
        assert row["messages"] == [{"role": "user", "content": f"q{row['line']}"}, answer]


async def test_a_page_of_long_records_ends_early_and_says_where_to_go_on(studio: Rig) -> None:
    rows = [{"messages": [], "text": "x" * 3_000_000, "line": number} for number in range(1, 5)]
    view = await ready(studio, rows, kind="text")

    async with studio.http() as api:
        page = (await api.get(f"/api/v1/datasets/{view.id}/records")).json()

    assert [row["line"] for row in page["data"]] == [1, 2]
    assert page["next"] == 2


async def test_statistics_are_told_and_before_ingest_neither_is_there(studio: Rig) -> None:
    waiting = await studio.upload("w.jsonl", sha="b" * 64)
    async with studio.http() as api:
        early = [await api.get(f"/api/v1/datasets/{waiting.id}/{what}") for what in ("records", "statistics")]
        await studio.work()
        view = await ready(studio, [conversation(1)])
        told = (await api.get(f"/api/v1/datasets/{view.id}/statistics")).json()

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in early] == [(409, "not_ready")] * 2
    assert (told["records"], told["characters"]) == (1, {"user": 2})


async def test_a_file_of_which_no_record_was_looked_at_has_a_report_of_one_line(studio: Rig) -> None:
    dataset = await studio.upload("prose.csv")
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    error = ErrorBody(code="format_mismatch", message="prose.csv was stated to be csv, but it is text; state it right")
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=error)

    async with studio.http() as api:
        answer = await api.get(f"/api/v1/datasets/{dataset.id}/report")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"file": "prose.csv", "code": "format_mismatch", "reason": "prose.csv was stated to be csv, but it is text",
         "remedy": "state it right"}
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["preference", "feedback", "answer", "text"])
async def test_tuning_on_another_kind_is_refused_at_submit(studio: Rig, output: Any, kind: str) -> None:
    output(DataKind(kind))
    view = await ready(studio, [conversation(1)])

    with pytest.raises(InvalidRequest) as refused:
        await studio.tune(view.id)

    assert (refused.value.error_code, view.kind) == ("dataset_kind_unfit", kind)
    assert kind in str(refused.value)


async def test_a_kind_that_is_known_too_late_fails_the_task_when_it_would_be_queued(studio: Rig, output: Any) -> None:
    output(DataKind.PREFERENCE)
    dataset = await studio.upload()
    job = await studio.tune(dataset.id)

    await studio.work()

    failed = await studio.task(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == ("failed", "dataset_kind_unfit")


async def test_the_same_content_is_kept_once_and_goes_with_the_last_dataset(studio: Rig, tmp_path: Path) -> None:
    def files() -> list[Path]:
        return list((tmp_path / "store").rglob("records.parquet"))

    first = await ready(studio, [conversation(1)])
    again = await ready(studio, [conversation(1)])

    assert again.content == first.content
    assert len(files()) == 1
    async with studio.http() as api:
        await api.delete(f"/api/v1/datasets/{first.id}?confirm=DELETE")
        await studio.pass_time()
        page = (await api.get(f"/api/v1/datasets/{again.id}/records")).json()
        await api.delete(f"/api/v1/datasets/{again.id}?confirm=DELETE")
    await studio.pass_time(hours=24 * 365)
    assert page["total"] == 1
    assert files() == []
