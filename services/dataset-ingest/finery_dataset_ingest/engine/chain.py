"""The chain: each step of a preparation in turn, and what is to be told of it. It knows no job and writes no artefact.

Steps that look at one record at a time run together in one pass. One that must see all records first has them laid on a
shelf, so memory holds a few numbers for each record, never the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from finery_contracts.preparing import StepExample, StepReport
from finery_dataset_ingest.engine.steps.table import Ground, chooser_of, judge_of
from finery_dataset_ingest.engine.steps.texts import texts_of
from finery_dataset_ingest.engine.steps.verdicts import Chooseable, Chosen, Judge, Readable, Why
from finery_dataset_ingest.engine.tables import Shelf, View

_SHOWN_CHARACTERS = 300
SEED_STRIDE = 2**32
"""Between the seeds of two places in the chain: two samples draw differently."""


def run_chain(
    batches: Iterable[pa.RecordBatch],
    steps: Sequence[Any],
    ground: Ground,
    *,
    folder: Path,
    examples: int = 20,
    pulse: Callable[[], None] = lambda: None,
) -> Made:
    """Records in, records out. ``folder`` holds shelves meanwhile; ``pulse`` is called for every batch and may raise.

    The reports are whole when ``train`` was read to its end, which can be done once.
    """
    tallies = [Tally(place, step, examples) for place, step in enumerate(steps, start=1)]
    made = Made(_counted(batches, pulse), None, tallies)
    for number, step in enumerate(steps):
        seeded = replace(ground, seed=ground.seed + number * SEED_STRIDE)
        chooser = chooser_of(step, seeded)
        if chooser is None:
            made.train = judged(made.train, judge_of(step, seeded), tallies[number])
            continue
        view = made.train.view if isinstance(made.train, _Shown) else made.lay_down(folder, number, pulse)
        chosen = chooser(view)
        tallies[number].take_choice(view, chosen)
        made.train = _Shown(view.only(chosen.kept))
        made.validation = None if chosen.validation is None else view.only(chosen.validation)
    return made


@dataclass
class Made:
    """What a chain leaves, here or on a cluster."""

    train: Iterable[pa.RecordBatch]
    validation: Readable | None
    tallies: list[Tally]
    _shelves: list[Shelf] = field(default_factory=list[Shelf])

    @property
    def reports(self) -> list[StepReport]:
        """One a step."""
        return [tally.report() for tally in self.tallies]

    @property
    def examples(self) -> list[StepExample]:
        """Of all steps, in the order of the chain."""
        return [example for tally in self.tallies for example in tally.examples]

    def lay_down(self, folder: Path, number: int, pulse: Callable[[], None]) -> View:
        """All records so far on a shelf; the shelf they came from is cleared."""
        shelf = Shelf(folder / f"step-{number}.arrow", self.train, pulse=pulse)
        self.close()
        self._shelves = [shelf]
        return shelf.all()

    def close(self) -> None:
        """Clear the shelves."""
        for shelf in self._shelves:
            shelf.close()
        self._shelves = []


@dataclass(frozen=True)
class _Shown:
    """A view, read as batches."""

    view: View

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.view.batches()


@dataclass
class Tally:
    """What is told of one step; ``limit`` examples of each outcome."""

    place: int
    step: Any
    limit: int
    records_in: int = 0
    records_out: int = 0
    removed: int = 0
    changed: int = 0
    repeated: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    notes: list[str] = field(default_factory=list[str])
    examples: list[StepExample] = field(default_factory=list[StepExample])

    def report(self) -> StepReport:
        counted = [f"{count} {what}" for what, count in sorted(self.counts.items()) if count]
        return StepReport(
            step=self.step.step, parameters=self.step.model_dump(mode="json", exclude={"step"}),
            records_in=self.records_in, records_out=self.records_out, removed=self.removed, changed=self.changed,
            repeated=self.repeated, reasons=dict(sorted(self.reasons.items())), notes=[*self.notes, *counted],
        )  # fmt: skip

    def absorb(self, later: Tally) -> None:
        """What was told of the records that come after these."""
        for name in ("records_in", "records_out", "removed", "changed"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.reasons.update(later.reasons)
        self.counts.update(later.counts)
        for outcome in ("removed", "changed"):
            room = self.limit - sum(example.outcome == outcome for example in self.examples)
            self.examples += [example for example in later.examples if example.outcome == outcome][: max(room, 0)]

    def show(self, batch: pa.RecordBatch, found: Sequence[tuple[int, Why]], outcome: Literal["removed", "changed"]):
        room = self.limit - sum(example.outcome == outcome for example in self.examples)
        if room <= 0 or not found:
            return
        few = batch.take(pa.array([row for row, _ in found[:room]]))
        rows = few.select(["source", "file", "line"]).to_pylist()
        for (_, why), row, text in zip(found, rows, texts_of(few), strict=False):
            self.examples.append(
                StepExample(
                    place=self.place,
                    step=self.step.step,
                    outcome=outcome,
                    reason=why.reason,
                    detail=why.detail[:500],
                    text=text[:_SHOWN_CHARACTERS],
                    **row,
                )
            )

    def take_choice(self, view: Chooseable, chosen: Chosen) -> None:
        """What a step chose of all of them."""
        aside = 0 if chosen.validation is None else len(chosen.validation)
        distinct = len(np.unique(chosen.kept))
        self.records_in, self.records_out = view.records, len(chosen.kept) + aside
        self.removed = view.records - distinct - aside
        self.repeated = len(chosen.kept) - distinct
        self.reasons, self.notes = chosen.reasons, list(chosen.notes)
        few = list(chosen.examples[: self.limit])
        if few:
            shown = view.at(np.array([position for position, _ in few]))
            self.show(shown, [(row, why) for row, (_, why) in enumerate(few)], "removed")


def judged(batches: Iterable[pa.RecordBatch], judge: Judge, tally: Tally) -> Iterator[pa.RecordBatch]:
    """Batches without what the judge removes; ``tally`` hears of it."""
    for batch in batches:
        found = judge(batch)
        tally.records_in += batch.num_rows
        tally.removed += len(found.removed)
        tally.changed += len(found.changed)
        tally.reasons.update(why.reason for why in (*found.removed.values(), *found.changed.values()))
        tally.counts.update(dict(found.notes))
        tally.show(found.batch, sorted(found.removed.items()), "removed")
        tally.show(found.batch, sorted(found.changed.items()), "changed")
        kept = found.batch
        if found.removed:
            kept = kept.take(pa.array([row for row in range(batch.num_rows) if row not in found.removed], pa.int64()))
        tally.records_out += kept.num_rows
        yield kept


def _counted(batches: Iterable[pa.RecordBatch], pulse: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        pulse()
        yield batch
