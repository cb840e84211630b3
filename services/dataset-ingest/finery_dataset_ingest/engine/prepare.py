"""Makes datasets of datasets: ``python -m finery_dataset_ingest.engine.prepare JOB_DIR``, spec PrepareSpec.

Read → chain of steps → write, in one or a few passes. The same records, steps and seed give the same bytes. Nothing is
published unless all of it is.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter

from finery_contracts.cleansing import Contamination, Length
from finery_contracts.datasets import DataKind
from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_contracts.jobs import Phase
from finery_contracts.preparing import PrepareOutput, PrepareSource, PrepareSpec, SourceUsed, StepReport
from finery_dataset_ingest.engine import cluster, distributed
from finery_dataset_ingest.engine.canonical import CanonicalWriter
from finery_dataset_ingest.engine.chain import Made, run_chain
from finery_dataset_ingest.engine.samples import Turn
from finery_dataset_ingest.engine.statistics import Tally
from finery_dataset_ingest.engine.steps.contamination import EvaluationIndex, build_index
from finery_dataset_ingest.engine.steps.lengths import CountTokens
from finery_dataset_ingest.engine.steps.table import Ground
from finery_dataset_ingest.engine.tables import BATCH_RECORDS, Source, open_source
from finery_ml.job import JobFolder, Terminated, run, write_atomically

_FEW_SAMPLES = 2_000
"""Under so many samples tuning rarely generalises (SPEC DS9)."""
_BETWEEN_REPORTS_S = 1.0
_TURN_FIELDS = Turn._fields


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(prepare, argv)


def prepare(work: JobFolder, *, batch_records: int = BATCH_RECORDS) -> PrepareOutput:
    """Open, run the chain, write. However ``batch_records`` is chosen, the bytes are the same."""
    spec = work.job.spec
    if not isinstance(spec, PrepareSpec):
        raise InvalidRequest(f"This engine prepares; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    sources = _open_all(spec.sources)
    holds = _one_kind(sources)
    scratch = work.folder / "shelves"
    scratch.mkdir(exist_ok=True)
    pulse = _Pulse(work, total=sum(source.records for source in sources))
    work.progress(phase=Phase.RUNNING, total=pulse.total, message=" → ".join(step.step for step in spec.steps)[:200])
    try:
        with work.span("chain", steps=len(spec.steps)) as facts:
            with _chain(spec, sources, scratch=scratch, pulse=pulse, batch_records=batch_records) as made:
                written = _write(work, made, holds)
            facts.update(records=written.records)
        _tell(work, made, spec)
        return _output(spec, sources, made, written)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _chain(
    spec: PrepareSpec, sources: list[Source], *, scratch: Path, pulse: _Pulse, batch_records: int
) -> Iterator[Made]:
    """The chain, here or on a cluster; what it leaves can be read inside the context."""
    ground = _ground(spec)
    if spec.on == "ray":
        with cluster.joined():
            yield distributed.run_on_ray(
                sources, spec.steps, ground, scratch=scratch, pulse=pulse, examples=spec.examples
            )
        return
    batches = chain.from_iterable(source.batches(batch_records) for source in sources)
    yield run_chain(
        _watched(batches, pulse), spec.steps, ground, folder=scratch, examples=spec.examples, pulse=pulse.look
    )


class _Written:
    """What lies in out/."""

    def __init__(self, holds: str) -> None:
        self.holds, self.digests, self.sizes = holds, dict[str, str](), dict[str, int]()
        self.records, self.validation, self.characters = 0, 0, 0


def _write(work: JobFolder, made: Made, holds: str) -> _Written:
    """Both files under their names, or none of them."""
    written, tally, aside = _Written(holds), Tally(), Tally()
    writers = {"records": CanonicalWriter(work.out / "records.parquet", DataKind(holds))}
    try:
        for batch in made.train:
            writers["records"].add(batch)
            tally.add(batch)
        if made.validation is not None:
            writers["validation"] = CanonicalWriter(work.out / "validation.parquet", DataKind(holds))
            for batch in made.validation.batches():
                writers["validation"].add(batch)
                aside.add(batch)
        if writers["records"].records == 0:
            raise DataInvalid(f"no record is left: {_culprit(made.reports)}.", code="dataset_empty")
        written.digests = {name: writer.publish() for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.discard()
        made.close()
    written.sizes = {name: (work.out / f"{name}.parquet").stat().st_size for name in writers}
    written.records = writers["records"].records
    written.validation = writers["validation"].records if "validation" in writers else 0
    written.characters = tally.characters.total()
    for name, counted in (("stats", tally), ("validation_stats", aside))[: len(writers)]:
        write_atomically(work.out / f"{name}.json", counted.as_statistics(DataKind(holds)).model_dump_json(indent=1))
    return written


def _tell(work: JobFolder, made: Made, spec: PrepareSpec) -> None:
    reports = TypeAdapter(list[StepReport]).dump_json(made.reports, indent=1).decode()
    write_atomically(work.out / "report.json", f'{{"seed": {spec.seed}, "steps": {reports}}}\n')
    lines = "".join(example.model_dump_json(exclude_none=True) + "\n" for example in made.examples)
    write_atomically(work.out / "examples.jsonl", lines)


def _output(spec: PrepareSpec, sources: list[Source], made: Made, written: _Written) -> PrepareOutput:
    split = "validation" in written.digests
    return PrepareOutput(
        holds=written.holds,
        records=written.records,
        validation_records=written.validation if split else None,
        size_bytes=written.sizes["records"],
        validation_size_bytes=written.sizes.get("validation", 0),
        characters=written.characters,
        content_sha256=written.digests["records"],
        validation_sha256=written.digests.get("validation"),
        sources=[
            SourceUsed(**{**said.model_dump(exclude={"path"}), "records": opened.records})
            for said, opened in zip(spec.sources, sources, strict=True)
        ],
        steps=made.reports,
        seed=spec.seed,
        warnings=_warnings(written),
    )


def _open_all(sources: list[PrepareSource]) -> list[Source]:
    return [open_source(Path(one.path), number=n, dataset=one.dataset) for n, one in enumerate(sources)]


def _one_kind(sources: list[Source]) -> str:
    kinds = {source.holds for source in sources}
    if len(kinds) > 1:
        named = ", ".join(f"{source.dataset} holds {source.holds}" for source in sources)
        raise DataInvalid(
            f"datasets of different kinds do not go together: {named}; prepare each kind by itself.",
            code="kinds_differ", param="datasets",
        )  # fmt: skip
    return kinds.pop()


def _ground(spec: PrepareSpec) -> Ground:
    references = {one.name: one for one in spec.references} | {one.dataset: one for one in spec.references}

    def evaluations(step: Contamination) -> EvaluationIndex:
        named = [references[ref] for ref in step.against]
        opened = [(one.name, open_source(Path(one.path), number=0, dataset=one.dataset)) for one in named]
        return build_index(((name, source.batches()) for name, source in opened), step)

    names = [source.name for source in spec.sources]
    return Ground(seed=spec.seed, inputs=names, count_tokens=_counter(spec), evaluations=evaluations)


def _counter(spec: PrepareSpec) -> CountTokens | None:
    if not any(isinstance(step, Length) and step.unit == "tokens" for step in spec.steps):
        return None
    # Only now: these imports take seconds, and most chains count no tokens.
    from finery_dataset_ingest.engine.tokens import token_counter
    from finery_ml.loading import load_tokenizer

    if spec.model is None:
        raise InvalidRequest("tokens are counted by a model; name one.", code="model_missing", param="model")
    return token_counter(load_tokenizer(Path(spec.model)))


class _Pulse:
    """Says how far the work is, and notices that the engine is to stop."""

    def __init__(self, work: JobFolder, *, total: int) -> None:
        self.work, self.total, self.read = work, total, 0
        self._batches, self._said_at = 0, time.monotonic()

    def look(self) -> None:
        """Called for every batch of every pass; the passes after the reading are told by their batches."""
        if self.work.stop_requested.is_set():
            raise Terminated
        self._batches += 1
        if time.monotonic() - self._said_at >= _BETWEEN_REPORTS_S:
            self._said_at = time.monotonic()
            self.work.progress(
                step=self.read, total=self.total, message=f"{self._batches:,} batches of all passes",
                metrics={"records": self.read},
            )  # fmt: skip


def _watched(batches: Iterable[pa.RecordBatch], pulse: _Pulse) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        pulse.read += batch.num_rows
        yield batch


def _culprit(reports: list[StepReport]) -> str:
    emptied = next((report for report in reports if report.records_in and not report.records_out), None)
    if emptied is None:
        return "the datasets hold none, choose others"
    why = ", ".join(f"{reason} ({count})" for reason, count in emptied.reasons.items())
    return f"{emptied.step} removed all {emptied.records_in} that were there: {why}; loosen it, or leave it out"


def _warnings(written: _Written) -> list[str]:
    if written.records < _FEW_SAMPLES:
        return [f"There are {written.records} samples; under {_FEW_SAMPLES} a tuned model rarely generalises."]
    return []


if __name__ == "__main__":
    sys.exit(main())
