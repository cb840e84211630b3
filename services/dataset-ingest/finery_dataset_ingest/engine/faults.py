"""The bad records of an upload: each in the report file, the first thousand in memory, and the verdict on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TextIO

from finery_contracts.errors import DataInvalid
from finery_contracts.jobs import BadRecord, IngestSpec
from finery_dataset_ingest.engine.samples import Fault, FileUnreadable, Flawed, Place

_ERRORS_KEPT = 1_000
_REPORT_BYTES = 2**30
"""A report that long is read by nobody, and a file of nothing but faults must not fill the disk."""

_TOLD_BYTES = 400 * 2**10
"""What the records may take that travel with the task; a message on the bus has room for little more."""
_SHORTER = (200, 100, 60, 40, 24)


@dataclass
class Faults:
    """The bad records so far."""

    report: TextIO
    records: int = 0
    unreadable: bool = False
    _written: int = 0
    _faults: int = 0
    _every: list[BadRecord] = field(default_factory=list)
    """The first thousand faults, of however few records."""
    _one_each: list[BadRecord] = field(default_factory=list)
    """What is wrong first with each of the first thousand records."""

    @property
    def first(self) -> list[BadRecord]:
        """The first thousand bad records: with all their faults when that is a thousand, else with one each."""
        return _fitting(self._every if self._faults <= _ERRORS_KEPT else self._one_each)

    def add(self, flawed: Flawed, filename: str) -> None:
        """Count and report a record. Raises FileUnreadable ``too_many_bad_records``."""
        self.records += 1
        for fault in flawed.faults:
            bad = fault.as_record(filename)
            self._written += self.report.write(bad.model_dump_json(exclude_none=True) + "\n")
            self._faults += 1
            if len(self._every) < _ERRORS_KEPT:
                self._every.append(bad)
            if fault is flawed.faults[0] and len(self._one_each) < _ERRORS_KEPT:
                self._one_each.append(bad)
        if self._written > _REPORT_BYTES:
            self._written = 0
            reason = f"the report of {self.records} bad records has more than {_REPORT_BYTES} bytes"
            remedy = "correct those it names, then upload the file again"
            place = flawed.faults[-1].place if flawed.faults else Place()
            raise FileUnreadable(Fault(place, code="too_many_bad_records", reason=reason, remedy=remedy))

    def judge(self, spec: IngestSpec, good: int) -> None:
        """Raise DataInvalid ``invalid_training_file`` or ``dataset_empty`` unless the rest may be published."""
        every = good + self.records
        share = self.records / every if every else 0.0
        if self.unreadable:
            raise self._failure("the file cannot be read any further, so no bad record can be skipped")
        if self.records and spec.bad_records == "strict":
            raise self._failure("correct them, or choose to skip bad records")
        if share > spec.bad_ceiling:
            raise self._failure(
                f"that is {share:.1%} of {every}, more than the {spec.bad_ceiling:.1%} that may be skipped"
            )
        if self.records and good == 0:
            raise self._failure("no good record is left")
        if good == 0:
            raise DataInvalid(f"{spec.filename} holds no records; add some.", code="dataset_empty", param=spec.filename)

    def _failure(self, consequence: str) -> DataInvalid:
        first = self._one_each[0]
        place = next(
            (f"{name} {value}" for name in ("record", "row", "line") if (value := getattr(first, name))), first.file
        )
        records = "1 bad record" if self.records == 1 else f"{self.records} bad records"
        return DataInvalid(
            f"{place}: {first.reason}; {first.remedy}. {records} in all: {consequence}.",
            code="invalid_training_file",
            param=place,
            details=[bad.model_dump(exclude_none=True) for bad in self.first],
        )


def _fitting(records: list[BadRecord]) -> list[BadRecord]:
    """All of them, with texts cut when they are too long to travel; the report has them whole."""
    told = records
    for longest in _SHORTER:
        if sum(len(bad.model_dump_json(exclude_none=True).encode()) for bad in told) <= _TOLD_BYTES:
            break
        told = [_shortened(bad, longest) for bad in records]
    return told


def _shortened(bad: BadRecord, longest: int) -> BadRecord:
    texts = {name: text for name in ("file", "field", "reason", "remedy") if (text := getattr(bad, name)) is not None}
    cut = {name: f"{text[: longest - 1]}…" for name, text in texts.items() if len(text) > longest}
    return bad.model_copy(update=cut)
