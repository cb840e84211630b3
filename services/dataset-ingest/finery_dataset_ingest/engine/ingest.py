"""Ingests a file of people's data: ``python -m finery_dataset_ingest.engine.ingest JOB_DIR``, spec IngestSpec.

Streams it once, reports every bad record with its place and remedy, writes canonical Parquet. Nothing is published of
an upload that fails: out/ then holds the report alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from finery_contracts.errors import DataInvalid, InvalidRequest, TooLarge
from finery_contracts.jobs import IngestOutput, IngestSpec, Phase
from finery_contracts.sources import FetchedBytes
from finery_dataset_ingest.engine.canonical import CanonicalWriter, batch_of
from finery_dataset_ingest.engine.containers import DataFile, Gauge, files_of
from finery_dataset_ingest.engine.detection import Format, choose_format
from finery_dataset_ingest.engine.faults import Faults
from finery_dataset_ingest.engine.limits import limited_memory
from finery_dataset_ingest.engine.samples import MAX_RECORD, FileUnreadable, Flawed, Sample
from finery_dataset_ingest.engine.sources.fetching import fetch
from finery_dataset_ingest.engine.statistics import Tally
from finery_ml.job import JobFolder, Terminated, run, write_atomically

_RECORDS_BETWEEN_REPORTS = 5_000
_BATCH_RECORDS, _BATCH_CHARACTERS = 2_000, MAX_RECORD
_FEW_SAMPLES = 2_000
"""Under so many samples tuning rarely generalises (SPEC DS9)."""


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
    total = sum(source.stat().st_size for source, _ in sources)
    work.progress(phase=Phase.RUNNING, total=total, message=f"reading {spec.filename}")
    with limited_memory(spec.filename), _collector_at_rest():
        gauge = Gauge()
        files = _all_files(sources, spec.max_bytes, gauge)
        flow = _Flow(work, Tally(), gauge, total, may_mix=len(sources) > 1)
        return _ingest_files(flow, spec, files, fetched)


def _all_files(sources: Sequence[tuple[Path, str]], max_bytes: int, gauge: Gauge) -> list[DataFile]:
    """The data files of every source; of several sources each record names its file."""
    found = [
        file for source, filename in sources for file in files_of(source, filename, max_bytes=max_bytes, gauge=gauge)
    ]
    return found if len(sources) == 1 else [replace(file, inner=file.inner or file.name) for file in found]


def _ingest_files(flow: _Flow, spec: IngestSpec, files: list[DataFile], fetched: FetchedBytes | None) -> IngestOutput:
    work, chosen = flow.work, choose_format(files[0], stated=spec.format)
    writer = CanonicalWriter(work.out / "records.parquet", chosen.kind)
    try:
        with (work.out / "report.jsonl").open("w", encoding="utf-8") as report:
            flow.writer, flow.faults = writer, Faults(report)
            with work.span("read", format=chosen.name) as facts:
                flow.all_of(files, chosen, spec.format)
                flow.tell()
                facts.update(records=flow.tally.records, bad_records=flow.faults.records)
        flow.faults.judge(spec, flow.tally.records)
        digest = writer.publish()
    finally:
        writer.discard()
    tally, faults = flow.tally, flow.faults
    write_atomically(work.out / "stats.json", tally.as_statistics(chosen.kind).model_dump_json(indent=1))
    return IngestOutput(
        format="mixed" if flow.mixed else chosen.name,
        data_kind=chosen.kind,
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
    if size == 0:
        raise DataInvalid(f"{filename} is empty; add records.", code="dataset_empty", param=filename)


@dataclass
class _Flow:
    """Records on their way: the good ones to file and counts, the bad ones to the report."""

    work: JobFolder
    tally: Tally
    gauge: Gauge
    total_bytes: int
    may_mix: bool
    """Files of a folder may have different formats, as long as these make the same kind of records."""
    writer: CanonicalWriter = field(init=False)
    faults: Faults = field(init=False)
    mixed: bool = False
    _samples: list[Sample] = field(default_factory=list)
    _characters: int = 0
    _told_at: int = 0

    def all_of(self, files: list[DataFile], first: Format, stated: str) -> None:
        """File by file; what cannot be read any further ends it, and is remembered."""
        for number, file in enumerate(files):
            chosen = first if number == 0 else choose_format(file, stated=stated)
            self.mixed |= chosen.name != first.name
            if chosen.kind != first.kind or (self.mixed and not self.may_mix):
                raise DataInvalid(
                    f"{file.name} is of the format {chosen.name}, but {files[0].name} is of the format {first.name}; "
                    "upload files of different formats one by one.",
                    code="format_mismatch",
                    param=file.name,
                )
            try:
                self._records_of(chosen, file)
                self._flush(file.inner)
            except FileUnreadable as broken:
                self.faults.unreadable = True
                self.faults.add(Flawed((broken.fault,)), file.name)
                return

    def _records_of(self, chosen: Format, file: DataFile) -> None:
        for record in chosen.read():
            if isinstance(record, Sample):
                self._take(record, file.inner)
            elif isinstance(record, pa.RecordBatch):
                self._flush(file.inner)
                self._emit(_named(record, file.inner))
            else:
                self.faults.add(record, file.name)
            if self.tally.records + len(self._samples) + self.faults.records >= self._told_at:
                self.tell()

    def _take(self, sample: Sample, inner: str | None) -> None:
        self._samples.append(sample)
        if sample.ignored_keys:
            self.tally.ignore(sample.ignored_keys)
        self._characters += len(sample.text or "") + sum(len(turn.content) for turn in sample.turns)
        if len(self._samples) >= _BATCH_RECORDS or self._characters >= _BATCH_CHARACTERS:
            self._flush(inner)

    def _flush(self, inner: str | None) -> None:
        if self._samples:
            self._emit(batch_of(self._samples, file=inner))
            self._samples, self._characters = [], 0

    def _emit(self, batch: pa.RecordBatch) -> None:
        self.writer.add(batch)
        self.tally.add(batch)

    def tell(self) -> None:
        """Say how far it is; leave when asked to."""
        count = self.tally.records + len(self._samples)
        if self.work.stop_requested.is_set():
            raise Terminated
        self._told_at = count + self.faults.records + _RECORDS_BETWEEN_REPORTS
        metrics: dict[str, float] = {"records": count, "bad_records": self.faults.records}
        self.work.progress(step=self.gauge.position(), total=self.total_bytes, metrics=metrics)


def _named(batch: pa.RecordBatch, inner: str | None) -> pa.RecordBatch:
    if inner is None:
        return batch
    at = batch.schema.get_field_index("file")
    return batch.set_column(at, batch.schema.field(at), pa.repeat(pa.scalar(inner, pa.string()), batch.num_rows))


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


def _warnings(tally: Tally, faults: Faults) -> list[str]:
    warnings = []
    if tally.records < _FEW_SAMPLES:
        warnings.append(f"There are {tally.records} samples; under {_FEW_SAMPLES} a tuned model rarely generalises.")
    if faults.records:
        warnings.append(f"{faults.records} bad records were skipped; the report names them.")
    if tally.ignored_keys:
        named = ", ".join(f"{key[:60]} ({count})" for key, count in sorted(tally.ignored_keys.items())[:10])
        warnings.append(f"Keys that the format does not know were ignored: {named}.")
    return warnings


if __name__ == "__main__":
    sys.exit(main())
