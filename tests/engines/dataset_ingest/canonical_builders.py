"""Builders of canonical records, version 2: as Parquet files, as batches and as views that a step can choose from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finery_contracts.jobs import EngineJob, JobResult
from finery_contracts.preparing import PrepareSource, PrepareSpec
from finery_dataset_ingest.engine import prepare
from finery_dataset_ingest.engine.steps.verdicts import Judge, Why
from finery_dataset_ingest.engine.tables import SHELF_SCHEMA, Shelf, View

MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False),
        pa.field("name", pa.string()), pa.field("tool_calls", pa.string()), pa.field("tool_call_id", pa.string()),
        pa.field("weight", pa.int32()),
    ]
)  # fmt: skip
CANONICAL = pa.schema(
    [
        pa.field("messages", pa.list_(MESSAGE), nullable=False), pa.field("tools", pa.string()),
        pa.field("chosen", pa.list_(MESSAGE)), pa.field("rejected", pa.list_(MESSAGE)), pa.field("label", pa.bool_()),
        pa.field("reward", pa.float64()), pa.field("answer", pa.string()), pa.field("text", pa.string()),
        pa.field("source", pa.string()), pa.field("file", pa.string()), pa.field("line", pa.int64(), nullable=False),
    ]
)  # fmt: skip
V1 = pa.schema([CANONICAL.field("messages"), CANONICAL.field("tools"), CANONICAL.field("line")])


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(question: str, answer: str = "Fine.", **more: Any) -> dict[str, Any]:
    return {"messages": [turn("user", question), turn("assistant", answer)], **more}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"messages": [], "text": said, **more}


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    sides = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
    return {"messages": [turn("user", question)], **sides}


def _rows(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"line": line, "source": "ds_a", **record} for line, record in enumerate(records, start=1)]


def batch_of(*records: dict[str, Any], number: int = 0) -> pa.RecordBatch:
    rows = [{"_input": number, **row} for row in _rows(records)]
    return pa.RecordBatch.from_pylist(rows, schema=SHELF_SCHEMA)


def view_of(folder: Path, *records: dict[str, Any], size: int = 7, inputs: Sequence[int] | None = None) -> View:
    rows = [{"_input": inputs[n] if inputs else 0, **row} for n, row in enumerate(_rows(records))]
    whole = pa.RecordBatch.from_pylist(rows, schema=SHELF_SCHEMA)
    parts = [whole.slice(start, size) for start in range(0, len(records), size)]
    return Shelf(folder / f"shelf-{len(list(folder.iterdir()))}.arrow", parts).all()


def removed(judge: Judge, *records: dict[str, Any]) -> dict[int, str]:
    """Which records go, by their place, and why."""
    return {row: why.reason for row, why in judge(batch_of(*records)).removed.items()}


def why(judge: Judge, record: dict[str, Any]) -> Why:
    return judge(batch_of(record)).removed[0]


def canonical_file(path: Path, records: Sequence[dict[str, Any]], *, holds: str = "messages", version: int = 2) -> Path:
    said = {"finery.canonical": str(version)} | ({"finery.kind": holds} if version > 1 else {})
    schema = (CANONICAL if version > 1 else V1).with_metadata(said)
    rows = [{"line": line, **record} for line, record in enumerate(records, start=1)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=100)
    return path


def source(path: Path, name: str = "") -> PrepareSource:
    return PrepareSource(
        dataset=f"ds_{path.stem}", name=name or path.stem, version=2, content_sha256="c" * 64, path=str(path)
    )


def prepared(folder: Path, sources: Sequence[Path], steps: Sequence[dict[str, Any]], **said: Any) -> Prepared:
    """One run of the engine, as a worker would start it."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = PrepareSpec.model_validate(
        {"sources": [source(path).model_dump() for path in sources], "steps": list(steps), **said}
    )
    job = EngineJob(task_id="task_1", attempt=1, project_id="proj_1", spec=spec)
    (folder / "job.json").write_text(job.model_dump_json(), "utf-8")
    return Prepared(prepare.main([str(folder)]), folder)


class Prepared:
    """What one run left."""

    def __init__(self, status: int, folder: Path) -> None:
        self.status, self.folder = status, folder
        self.result = JobResult.model_validate_json((folder / "result.json").read_bytes())

    @property
    def output(self) -> Any:
        assert self.result.output is not None, self.result.error
        return self.result.output

    def rows(self, name: str = "records") -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "out" / f"{name}.parquet").to_pylist()

    def questions(self, name: str = "records") -> list[str]:
        return [row["messages"][0]["content"] for row in self.rows(name)]
