"""Brings a source into the job folder: which module fetches which kind, under one limit of time for all of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finery_contracts.errors import Forbidden
from finery_contracts.jobs import IngestSpec
from finery_contracts.sources import FetchedBytes, Origin
from finery_dataset_ingest.engine.sources import files, http, logs, s3, sql
from finery_dataset_ingest.engine.sources.landing import Landed, Landing, too_slow, within
from finery_ml.job import JobFolder

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
    origin = spec.origin
    if origin.denied is not None or origin.secret is None:
        raise Forbidden(origin.denied or "nothing opens this source", code="source_denied", param="source")
    shutil.rmtree(work.folder / "fetched", ignore_errors=True)
    landing = Landing(work, origin.limits)
    with work.span("fetch", kind=origin.source.kind) as facts, within(origin.limits.timeout_s, too_slow(origin.limits)):
        KINDS[origin.source.kind](origin.source, origin, landing)
        summary = landing.summary()
        facts.update(files=summary.files, bytes=summary.size_bytes)
    landing.tell()
    return [(one.path, _told(one, landing, spec)) for one in landing.in_order()], summary


def _told(one: Landed, landing: Landing, spec: IngestSpec) -> str:
    return spec.filename if len(landing.landed) == 1 and "/" not in one.name else one.name
