"""Datasets: upload, look, read the report of bad records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from finery.resources.tasks import FIRST_POLL_S, LAST_POLL_S
from finery.resources.tasks import PATH as TASKS
from finery.resources.uploads import Told, Uploads
from finery.transport import Page, Transport, every
from finery_contracts.datasets import DataFormat, DatasetStatistics, DatasetView, RecordPage
from finery_contracts.jobs import BadRecord
from finery_contracts.lineage import Lineage
from finery_contracts.preparing import TokenPage
from finery_contracts.tasks import NotifyChoice, TaskView

PATH = "/api/v1/datasets"
UPLOAD_TIMEOUT_S = 3600.0
RESUMABLE_BYTES = 8 * 2**20


class Datasets:
    """``client.datasets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._uploads = Uploads(transport)

    def upload(
        self, file: str | Path, *, name: str | None = None, file_format: DataFormat = "auto",
        bad_records: Literal["strict", "skip"] = "strict", bad_ceiling: float = 0.01,
        purpose: Literal["fine-tune", "evals"] = "fine-tune", notify: NotifyChoice | None = None,
        told: Told | None = None,
    ) -> DatasetView:  # fmt: skip
        """Upload a file; ingest begins at once, as the task ``task`` of the answer.

        A file of more than 8 MB goes in pieces, and ``told`` hears how far it is. ``bad_ceiling``: the share of bad
        records that ``skip`` may leave out.

        Raises:
            OSError: the file cannot be read.
        """
        path = Path(file)
        if path.stat().st_size > RESUMABLE_BYTES:
            upload = self._uploads.send(path, told=told)
            wanted: dict[str, Any] = {"format": file_format, "bad_records": bad_records, "purpose": purpose}
            wanted |= {"bad_ceiling": bad_ceiling}
            wanted |= {"notify": notify.model_dump(mode="json")} if notify else {}
            return self.fetch({"kind": "upload", "upload": upload.id}, name=name, **wanted)
        said = {"format": file_format, "bad_records": bad_records, "purpose": purpose, "bad_ceiling": str(bad_ceiling)}
        said |= {"name": name} if name else {}
        said |= {"notify": notify.model_dump_json()} if notify else {}
        with path.open("rb") as body:
            return self._transport.view(
                DatasetView, "POST", PATH, data=said, files={"file": (path.name, body)}, timeout=UPLOAD_TIMEOUT_S
            )

    def resume(
        self, file: str | Path, *, name: str | None = None, file_format: str = "auto", bad_records: str = "strict",
        bad_ceiling: float = 0.01, purpose: str = "fine-tune", told: Told | None = None,
    ) -> DatasetView:  # fmt: skip
        """Go on with the upload of this file that was interrupted, or begin it.

        Raises:
            OSError: it cannot be read.
        """
        begun = self._uploads.unfinished(file)
        upload = self._uploads.resume(begun.id, file, told=told) if begun else self._uploads.send(file, told=told)
        source = {"kind": "upload", "upload": upload.id}
        wanted = {"format": file_format, "bad_records": bad_records, "bad_ceiling": bad_ceiling, "purpose": purpose}
        return self.fetch(source, name=name, **wanted)

    def fetch(self, source: str | Mapping[str, Any], *, name: str | None = None, **said: Any) -> DatasetView:
        """A dataset of a source: ``s3://…``, ``file:///…``, ``https://…``, or a mapping with its ``kind``.

        ``said``: format, bad_records, bad_ceiling, purpose, and the task's options. It needs a grant to read the place.
        """
        body = {"source": source if isinstance(source, str) else dict(source), **said}
        return self._transport.view(DatasetView, "POST", PATH, json=body | ({"name": name} if name else {}))

    def get(self, ref: str) -> DatasetView:
        """One dataset, by id or name."""
        return self._transport.view(DatasetView, "GET", f"{PATH}/{ref}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[DatasetView]:
        """Newest first."""
        return self._transport.page(DatasetView, PATH, limit=limit, after=after)

    def all(self) -> Iterator[DatasetView]:
        """Every dataset, newest first."""
        return every(lambda after: self.list(limit=100, after=after))

    def wait(self, ref: str, *, timeout_s: float = 600.0) -> DatasetView:
        """The dataset, once ingest has looked at it; it may be ``rejected``.

        Raises:
            TimeoutError: it was not looked at yet.
        """
        until, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
        while (view := self.get(ref)).state.pending:
            if time.monotonic() > until:
                raise TimeoutError(f"dataset {ref} was not ingested within {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.25)
        return view

    def report(self, ref: str) -> Sequence[BadRecord]:
        """Every bad record, with its line or row, what is wrong and what would make it right."""
        text = self._transport.send("GET", f"{PATH}/{ref}/report").text
        return [BadRecord.model_validate(json.loads(line)) for line in text.splitlines() if line.strip()]

    def prepare(self, datasets: Sequence[str], steps: Sequence[Mapping[str, Any]], **said: Any) -> TaskView:
        """Make one dataset (two with a split) of ready ones; the task's ``result`` names what was made.

        ``steps`` as in ``finery_contracts.cleansing``, such as ``{"step": "near_duplicates", "threshold": 0.8}``;
        ``said``: output, validation_output, seed, model, and what every task takes.
        """
        body = {"kind": "prepare", "datasets": list(datasets), "steps": [dict(step) for step in steps], **said}
        return self._transport.view(TaskView, "POST", TASKS, json=body)

    def mix(
        self, weights: Mapping[str, float], *, records: int | None = None, repeat: bool = False, **said: Any
    ) -> TaskView:
        """Mix datasets by weight: ``{"industry": 1, "general": 3}``. ``repeat``: scarce ones are repeated."""
        step = {"step": "mix", "weights": [*weights.values()], "when_short": "repeat" if repeat else "shrink"}
        return self.prepare([*weights], [{**step, "records": records}], **said)

    def split(self, ref: str, *, validation: float = 0.1, **said: Any) -> TaskView:
        """Lay a share aside for validation; records that say the same stay on one side."""
        return self.prepare([ref], [{"step": "split", "validation": validation}], **said)

    def count(self, ref: str, model: str, *, max_length: int | None = None, **said: Any) -> TaskView:
        """Count tokens as training with this model would see them; the task's ``output`` holds the figures."""
        body = {"kind": "count", "dataset": ref, "model": model, "max_length": max_length, **said}
        return self._transport.view(TaskView, "POST", TASKS, json=body)

    def token_counts(self, task: str, *, offset: int = 0, limit: int = 100) -> TokenPage:
        """What each of up to ``limit`` records (at most 1,000) takes, as this count found it."""
        asked = {"offset": offset, "limit": limit}
        return self._transport.view(TokenPage, "GET", f"{TASKS}/{task}/tokens", params=asked)

    def lineage(self, ref: str) -> Lineage:
        """What it comes from and what came of it: datasets, tasks and models."""
        return self._transport.view(Lineage, "GET", f"{PATH}/{ref}/lineage")

    def records(self, ref: str, *, offset: int = 0, limit: int = 20) -> RecordPage:
        """Up to ``limit`` records (at most 100) from the 0-based ``offset`` on; ``next`` is the next page's offset."""
        asked = {"offset": offset, "limit": limit}
        return self._transport.view(RecordPage, "GET", f"{PATH}/{ref}/records", params=asked)

    def statistics(self, ref: str) -> DatasetStatistics:
        """What it holds: lengths, languages, roles, turns, duplicates; as data for charts."""
        return self._transport.view(DatasetStatistics, "GET", f"{PATH}/{ref}/statistics")

    def delete(self, ref: str) -> DatasetView:
        """Remove it for good, with its bytes; a name can be used again."""
        return self._transport.view(DatasetView, "DELETE", f"{PATH}/{ref}", params={"confirm": "DELETE"})

    def restore(self, ref: str) -> DatasetView:
        """Take back a deletion that OpenAI's surface made, within a day."""
        return self._transport.view(DatasetView, "POST", f"{PATH}/{ref}/restore")

    def withdraw(self, ref: str, *, reason: str) -> DatasetView:
        """Nobody may use it any longer; every dataset and model that descends from it is flagged."""
        return self._transport.view(DatasetView, "POST", f"{PATH}/{ref}/withdraw", json={"reason": reason})
