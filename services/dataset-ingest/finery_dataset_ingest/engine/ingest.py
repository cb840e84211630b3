"""Ingests a file of people's data: ``python -m finery_dataset_ingest.engine.ingest JOB_DIR``, spec IngestSpec.

Streams the file once, reports every bad record with its place and remedy, writes canonical Parquet. Nothing is
published of a file that fails: out/ then holds the report alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from finery_contracts.errors import DataInvalid, InvalidRequest, TooLarge
from finery_contracts.jobs import BadRecord, IngestOutput, IngestSpec, Phase
from finery_dataset_ingest.engine.canonical import CanonicalWriter
from finery_dataset_ingest.engine.detection import Format, choose_format
from finery_dataset_ingest.engine.samples import Fault, FileUnreadable, Flawed, Sample
from finery_dataset_ingest.engine.sources.fetching import fetch
from finery_dataset_ingest.engine.statistics import Tally
from finery_ml.job import JobFolder, Terminated, run, write_atomically

_ERRORS_KEPT = 1_000
_RECORDS_BETWEEN_REPORTS = 5_000
_FEW_SAMPLES = 2_000
"""Under so many samples tuning rarely generalises (SPEC DS9)."""


@dataclass
class _Faults:
    """The bad records so far: all of them in the report file, the first thousand in memory."""

    filename: str
    report: TextIO
    records: int = 0
    first: list[BadRecord] = field(default_factory=list)
    unreadable: Fault | None = None

    def add(self, flawed: Flawed) -> None:
        self.records += 1
        for fault in flawed.faults:
            bad = fault.as_record(self.filename)
            self.report.write(bad.model_dump_json(exclude_none=True) + "\n")
            if len(self.first) < _ERRORS_KEPT:
                self.first.append(bad)


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(ingest, argv)


def ingest(work: JobFolder) -> IngestOutput:
    """Open, choose the format, stream, judge, publish."""
    spec = work.job.spec
    if not isinstance(spec, IngestSpec):
        raise InvalidRequest(f"This engine ingests; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    sources, fetched = fetch(work, spec)
    for source, filename in sources:
        _check_source(source, filename, spec.max_bytes)
    every = sum(source.stat().st_size for source, _ in sources)
    work.progress(phase=Phase.RUNNING, total=every, message=f"reading {spec.filename}")
    tally = Tally()
    writer = CanonicalWriter(work.out / "records.parquet")
    try:
        with (work.out / "report.jsonl").open("w", encoding="utf-8") as report:
            faults, formats = _Faults(spec.filename, report), list[str]()
            for source, filename in sources:
                with source.open("rb") as file:
                    chosen = choose_format(file, stated=spec.format, filename=filename)
                    faults.filename = filename
                    formats.append(chosen.name)
                    with work.span("read", format=chosen.name) as facts, _collector_at_rest():
                        _stream(work, file, chosen, writer=writer, tally=tally, faults=faults)
                        facts.update(records=tally.records, bad_records=faults.records)
        _judge(spec, tally, faults)
        digest = writer.publish()
    finally:
        writer.discard()
    write_atomically(work.out / "stats.json", tally.as_statistics().model_dump_json(indent=1))
    return IngestOutput(
        format=formats[0] if len(set(formats)) == 1 else "mixed",
        records=tally.records,
        bad_records=faults.records,
        errors=faults.first,
        warnings=_warnings(tally, faults),
        characters=tally.characters.total(),
        content_sha256=digest,
        fetched=fetched,
    )


def _check_source(source: Path, filename: str, max_bytes: int) -> None:
    if not source.is_file():
        raise DataInvalid(f"{filename} is not a file; give one file of records.", code="not_a_file", param=filename)
    size = source.stat().st_size
    if size > max_bytes:
        raise TooLarge(
            f"{filename} has {size} bytes, the limit is {max_bytes}; split it.",
            code="file_too_large",
            param=filename,
        )


def _stream(
    work: JobFolder,
    file: BinaryIO,
    chosen: Format,
    *,
    writer: CanonicalWriter,
    tally: Tally,
    faults: _Faults,
) -> None:
    """Every record to the writer or to the report; a file that cannot be read further is remembered."""
    total = Path(file.name).stat().st_size
    try:
        for count, record in enumerate(chosen.read(file), start=1):
            if isinstance(record, Sample):
                writer.add(record)
                tally.add(record)
            else:
                faults.add(record)
            if count % _RECORDS_BETWEEN_REPORTS == 0:
                if work.stop_requested.is_set():
                    raise Terminated
                work.progress(step=file.tell(), total=total, metrics={"records": count, "bad_records": faults.records})
    except FileUnreadable as broken:
        faults.add(Flawed((broken.fault,)))
        faults.unreadable = broken.fault


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Records hold no cycles, so counting references frees them; looking for cycles would take a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _judge(spec: IngestSpec, tally: Tally, faults: _Faults) -> None:
    """Raise DataInvalid ``invalid_training_file`` or ``dataset_empty`` unless the file may be published."""
    every = tally.records + faults.records
    share = faults.records / every if every else 0.0
    if faults.unreadable is not None:
        raise _failure(faults, "the file cannot be read any further, so no bad record can be skipped")
    if faults.records and spec.bad_records == "strict":
        raise _failure(faults, "correct them, or choose to skip bad records")
    if share > spec.bad_ceiling:
        raise _failure(
            faults, f"that is {share:.1%} of {every}, more than the {spec.bad_ceiling:.1%} that may be skipped"
        )
    if tally.records == 0:
        raise DataInvalid(f"{spec.filename} holds no records; add some.", code="dataset_empty", param=spec.filename)


def _failure(faults: _Faults, consequence: str) -> DataInvalid:
    first = faults.first[0]
    place = next(
        (f"{name} {value}" for name in ("record", "row", "line") if (value := getattr(first, name))), first.file
    )
    records = "1 bad record" if faults.records == 1 else f"{faults.records} bad records"
    return DataInvalid(
        f"{place}: {first.reason}; {first.remedy}. {records} in all: {consequence}.",
        code="invalid_training_file",
        param=place,
        details=[bad.model_dump(exclude_none=True) for bad in faults.first],
    )


def _warnings(tally: Tally, faults: _Faults) -> list[str]:
    warnings = []
    if tally.records < _FEW_SAMPLES:
        warnings.append(f"There are {tally.records} samples; under {_FEW_SAMPLES} a tuned model rarely generalises.")
    if faults.records:
        warnings.append(f"{faults.records} bad records were skipped; the report names them.")
    if tally.ignored_keys:
        named = ", ".join(f"{key[:60]} ({count})" for key, count in sorted(tally.ignored_keys.items())[:10])
        warnings.append(f"Keys beside messages and tools were ignored: {named}.")
    return warnings


if __name__ == "__main__":
    sys.exit(main())
