"""Brings a source into the job folder: which module fetches which kind of place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finery_contracts.jobs import IngestSpec
from finery_contracts.sources import FetchedBytes, Origin
from finery_dataset_ingest.engine.sources import logs, sql
from finery_ml.job import JobFolder
from finery_ml.sources import files, http, s3
from finery_ml.sources.landing import Landed, Landing, bring

KINDS: dict[str, Callable[[Any, Origin, Landing], None]] = {
    "file": files.fetch,
    "s3": s3.fetch,
    "http": http.fetch,
    "sql": sql.fetch,
    "logs": logs.fetch,
}


def fetch(work: JobFolder, spec: IngestSpec) -> tuple[list[tuple[Path, str]], FetchedBytes | None]:
    """The files to read, in the order of their names, each with the name people know it by; and what was fetched.

    Raises:
        Forbidden: a grant or a connection has gone since the task was submitted.
        FineryError: it cannot be fetched.
    """
    if spec.origin is None:
        return [(Path(spec.source), spec.filename)], None
    landing, summary = bring(work, spec.origin, KINDS[spec.origin.source.kind])
    return [(one.path, _told(one, landing, spec)) for one in landing.in_order()], summary


def _told(one: Landed, landing: Landing, spec: IngestSpec) -> str:
    return spec.filename if len(landing.landed) == 1 and "/" not in one.name else one.name
