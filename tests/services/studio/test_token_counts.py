"""What a count found: a page of records at a time, and what training on so many tokens would cost."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studio_posts import BILLED
from studio_rig import GALLERY_MODEL, OUTPUTS, Rig

from finery_contracts.jobs import TaskKind
from finery_studio.edge import forward


async def counted(studio: Rig, *, records: int = 250) -> str:
    """A count that has succeeded, by its task; each record takes as many tokens as its line."""
    await studio.upload("a.jsonl")
    async with studio.http() as api:
        asked = {"kind": "count", "dataset": "a.jsonl", "model": GALLERY_MODEL}
        task = (await api.post("/api/v1/tasks", json=asked)).json()["id"]
    await studio.work(TaskKind.INGEST, TaskKind.IMPORT, TaskKind.VALIDATE)
    claim = await studio.claim(TaskKind.COUNT)
    assert claim is not None
    left = studio.studio.storage.place(f"store://{claim.project}/tasks/{claim.task_id}/{claim.attempt}/left") / "out"
    left.mkdir(parents=True)
    lines = list(range(1, records + 1))
    columns = {
        "line": lines, "tokens": lines, "trained_tokens": [1] * records, "truncated": [n > 200 for n in lines],
        "refused": ["template_refused: no" if n == 2 else None for n in lines],
    }  # fmt: skip
    pq.write_table(pa.table(columns), left / "tokens.parquet", row_group_size=64)
    await studio.end(claim)
    return task


@pytest.mark.parametrize(
    ("asked", "expected", "following"),
    [("", [*range(1, 101)], 100), ("?offset=199&limit=2", [200, 201], 201), ("?offset=249", [250], None),
     ("?offset=250", [], None)],
)  # fmt: skip
async def test_the_tokens_of_any_records_are_told(
    studio: Rig, asked: str, expected: list[int], following: int | None
) -> None:
    task = await counted(studio)

    async with studio.http() as api:
        page = (await api.get(f"/api/v1/tasks/{task}/tokens{asked}")).json()

    assert ([row["tokens"] for row in page["data"]], page["next"], page["total"]) == (expected, following, 250)
    assert [row["line"] for row in page["data"] if row["truncated"]] == [n for n in expected if n > 200]


async def test_what_counted_nothing_is_told_so(studio: Rig) -> None:
    ingest = (await studio.upload()).task
    async with studio.http() as api:
        answers = [
            await api.get(f"/api/v1/tasks/{ingest}/tokens"),
            await api.get("/api/v1/tasks/task_none/tokens"),
            await api.post("/api/v1/estimates", json={"count": ingest}),
            await api.post("/api/v1/estimates", json={"count": "task_none"}),
        ]

    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]
    assert codes == [(409, "not_counted"), (404, "task_not_found")] * 2


async def test_an_estimate_takes_tokens_and_model_from_a_count(studio: Rig) -> None:
    seconds: list[float] = []

    async def meter(_owner: str, _verb: str, body: Any, _answer: Any, **_: Any) -> forward.Anything:
        seconds.append(body.root["seconds"])
        return forward.Anything(BILLED["estimate"])

    studio.studio._ask = forward.Ask(meter)
    task = await counted(studio)
    async with studio.http() as api:
        said = {"count": task, "epochs": 2, "throughput": 100}
        told = (await api.post("/api/v1/estimates", json=said)).json()["duration"]
        known = await api.post("/api/v1/estimates", json={"count": task})

    epoch: Any = OUTPUTS[TaskKind.COUNT]
    assert (told["tokens"], told["basis"]) == (2 * epoch.tokens_per_epoch, "counted tokens, stated throughput")
    assert seconds[0] == pytest.approx(2 * 8000 / 100)
    assert (known.status_code, GALLERY_MODEL in known.text) == (400, True), "its throughput is not published"
