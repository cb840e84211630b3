"""Fetched sources through the whole engine: many files are one dataset, and each bad record names its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ingest_builders import Ingested, lines, message, record

from finery_contracts.jobs import EngineJob, IngestOutput, IngestSpec, JobResult
from finery_contracts.sources import FileSource, Limits, Origin
from finery_dataset_ingest.engine.ingest import main


def ingest(folder: Path, root: Path, name: str, **said: Any) -> Ingested:
    origin = Origin(source=FileSource(url=f"file://{root}"), limits=Limits(roots=[str(root)]), **{"secret": {}, **said})
    work = folder / name
    work.mkdir()
    job = EngineJob(task_id="task_1", attempt=1, project_id="prj_1", spec=IngestSpec(origin=origin, filename="data"))
    (work / "job.json").write_text(job.model_dump_json())
    status = main([str(work)])
    return Ingested(status, JobResult.model_validate_json((work / "result.json").read_bytes()), work)


def test_files_of_a_folder_become_one_dataset_and_the_same_bytes_the_same_version(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    first, second = lines(record()), "conversation_id,human,assistant\n1,q,a\n"
    (root / "b.csv").write_text(second)
    (root / "a.jsonl").write_text(first)

    once, twice = ingest(tmp_path, root, "once"), ingest(tmp_path, root, "twice")

    output = once.result.output
    assert isinstance(output, IngestOutput)
    assert (once.status, output.records, output.format) == (0, 2, "mixed")
    listed = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in
                     (("a.jsonl", first), ("b.csv", second)))  # fmt: skip
    assert output.fetched is not None
    assert (output.fetched.files, output.fetched.sha256) == (2, hashlib.sha256(listed.encode()).hexdigest())
    assert [row["messages"][0]["content"] for row in once.rows] == ["Hello?", "q"]
    assert output.model_dump() == twice.result.output.model_dump()  # type: ignore[union-attr]


def test_a_bad_record_names_the_file_it_stands_in(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.jsonl").write_text(lines(record()))
    (root / "b.jsonl").write_text(lines(record(), record(message("nobody"))))

    failed = ingest(tmp_path, root, "job")

    assert failed.status == 2
    assert [(fault["file"], fault["line"]) for fault in failed.faults] == [("b.jsonl", 2)]
    assert json.dumps(failed.result.model_dump(mode="json")).count("b.jsonl") >= 1


def test_what_was_denied_meanwhile_is_not_fetched(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.jsonl").write_text(lines(record()))

    denied = ingest(tmp_path, root, "denied", secret=None, denied="its grant was withdrawn")

    assert denied.result.error is not None
    assert (denied.status, denied.result.error.code) == (2, "source_denied")
    assert not (tmp_path / "denied" / "fetched").exists()
