"""Datasets for labelling tests: canonical Parquet where a finished ingest would have left it."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from studio_rig import Rig

from finery_contracts.access import Role
from finery_contracts.jobs import IngestOutput, TaskKind

TURN = pa.struct([pa.field(name, pa.string()) for name in ("role", "content", "name", "tool_calls", "tool_call_id")])
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(TURN)), ("tools", pa.string()), ("chosen", pa.list_(TURN)), ("rejected", pa.list_(TURN)),
        ("label", pa.bool_()), ("line", pa.int64()),
    ]
)  # fmt: skip


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def talks(count: int, *, answer: str = "answer") -> list[dict[str, Any]]:
    return [{"messages": [turn("user", f"question {n}"), turn("assistant", f"{answer} {n}")]} for n in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [turn("user", f"question {n}")], "chosen": [turn("assistant", f"good {n}")],
         "rejected": [turn("assistant", f"bad {n}")]}
        for n in range(count)
    ]  # fmt: skip


async def dataset(studio: Rig, name: str, records: list[dict[str, Any]]) -> str:
    """A ready dataset; the file has several row groups."""
    sha = hashlib.sha256(name.encode()).hexdigest()
    view = await studio.upload(name, sha=sha)
    claim = await studio.claim(TaskKind.INGEST)
    while claim is not None and claim.task_id != view.task:
        await studio.end(claim)
        claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    place = f"store://{claim.project}/tasks/{claim.task_id}/{claim.attempt}/left/out/records.parquet"
    rows = [{**record, "line": number} for number, record in enumerate(records, start=1)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), studio.studio.storage.place(place), row_group_size=3)
    output = IngestOutput(format="openai", records=len(rows), bad_records=0, content_sha256=sha)
    await studio.end(claim, output=output)
    return view.id


async def person(studio: Rig, name: str, role: Role = Role.COMMON) -> httpx.AsyncClient:
    """A client of somebody with a key of their own."""
    secret = f"fk-key-of-{name}-in-the-test"

    def add(tx: Any) -> None:
        studio.studio.keys.add_key(tx, studio.actor.project, name, role=role, description="", secret=secret)

    await studio.write(add)
    return studio.http(secret)
