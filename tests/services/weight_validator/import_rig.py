"""An import of a folder that lies in an object store, and what it left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_contracts.jobs import EngineJob, ImportSpec, JobResult
from finery_contracts.sources import Origin
from finery_weight_validator.engine import convert


@dataclass(frozen=True)
class Imported:
    """What an import left."""

    status: int
    result: JobResult
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "out" / "model"

    @property
    def code(self) -> str | None:
        return self.result.error.code if self.result.error else None

    @property
    def message(self) -> str:
        assert self.result.error is not None
        return self.result.error.message

    @property
    def faults(self) -> set[tuple[str, str]]:
        """Code and place of every finding that is an error."""
        assert self.result.error is not None
        return {(one["code"], one["where"]) for one in self.result.error.details if one.get("severity") == "error"}

    @property
    def progress(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "progress.jsonl").read_text().splitlines()]


def imported(folder: Path, origin: Origin, **spec: Any) -> Imported:
    """Run the engine on a job folder, as a worker would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    job = EngineJob(task_id="task_1", attempt=1, project_id="prj_1", spec=ImportSpec(origin=origin, **spec))
    (folder / "job.json").write_text(job.model_dump_json())
    status = convert.main([str(folder)])
    return Imported(status, JobResult.model_validate_json((folder / "result.json").read_bytes()), folder)
