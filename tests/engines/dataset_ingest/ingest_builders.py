"""Builders of people's files, and one call that ingests bytes as a worker would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finery_contracts.jobs import EngineJob, IngestSpec, JobResult
from finery_dataset_ingest.engine.ingest import main


@dataclass(frozen=True)
class Ingested:
    """What one run left."""

    status: int
    result: JobResult
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "out" / "records.parquet").to_pylist()

    @property
    def faults(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out" / "report.jsonl").read_text("utf-8").splitlines()]

    @property
    def first_fault(self) -> tuple[Any, ...]:
        fault = self.faults[0]
        return fault["code"], fault.get("line"), fault.get("field")


def ingest(folder: Path, content: bytes | str, *, filename: str = "people.jsonl", **spec: Any) -> Ingested:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "upload"
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    work = folder / "job"
    work.mkdir()
    job = EngineJob(
        task_id="task_1",
        attempt=1,
        project_id="proj_1",
        spec=IngestSpec(source=str(source), filename=filename, **spec),
    )
    (work / "job.json").write_text(job.model_dump_json())
    status = main([str(work)])
    return Ingested(status, JobResult.model_validate_json((work / "result.json").read_bytes()), work)


def message(role: str = "user", content: Any = "Hello?", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def record(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [message(), message("assistant", "Hi.")], **more}


def lines(*records: Any) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


def call(arguments: Any = '{"city": "Graz"}', **more: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}, **more}
