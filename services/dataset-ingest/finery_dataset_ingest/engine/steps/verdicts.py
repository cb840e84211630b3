"""The words that steps share: what they say of a batch, what they choose of a view, and how both are told.

A step that looks at one record at a time is a judge. One that must see all of them (duplicates, a sample) chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from finery_dataset_ingest.engine.tables import View


@dataclass(frozen=True, slots=True)
class Why:
    """Why a record goes, or what was changed in it: a stable word, and the particulars."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Judged:
    """A batch after a step: the same records, changed where the step changes; ``removed`` names those that go."""

    batch: pa.RecordBatch
    removed: Mapping[int, Why] = field(default_factory=dict[int, Why])
    changed: Mapping[int, Why] = field(default_factory=dict[int, Why])
    notes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Things to tell, and how many records each concerns."""


class Chooseable(Protocol):
    """Records that can be looked at by their positions, wherever they lie."""

    @property
    def records(self) -> int:
        """How many there are."""
        ...

    def at(self, positions: np.ndarray) -> pa.RecordBatch:
        """The records at these positions."""
        ...


class Readable(Protocol):
    """Records that can be read in order, wherever they lie."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of them."""
        ...


Judge = Callable[[pa.RecordBatch], Judged]


@dataclass(frozen=True)
class Chosen:
    """What a step chose of a view. ``kept`` are positions in their new order; one may stand there twice."""

    kept: np.ndarray
    reasons: Counter[str] = field(default_factory=Counter[str])
    examples: Sequence[tuple[int, Why]] = ()
    notes: Sequence[str] = ()
    validation: np.ndarray | None = None
    """Positions laid aside."""


Chooser = Callable[[View], Chosen]
