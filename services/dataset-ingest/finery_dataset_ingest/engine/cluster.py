"""Records that lie in a Ray cluster: how it is joined, how work is sent to them, and how they are looked at from here.

Nobody outside is told that it runs. A wait for the cluster is never deaf to the wish to stop.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from finery_contracts.errors import NotOffered
from finery_dataset_ingest.engine.tables import BATCH_RECORDS, SHELF_SCHEMA
from finery_ml.job import cluster_address

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

PLACE = "_place"
PLACED_SCHEMA = SHELF_SCHEMA.append(pa.field(PLACE, pa.int64(), nullable=False))
"""In the cluster a record also knows its place among all, so that the first of two and the order can be told."""
_LOOK_EVERY_S = 0.5
_KEPT_HERE = 16
_FOLDERS = "finery-ray-"


class Pulse(Protocol):
    """Hears how many records were read, and may raise to stop."""

    read: int

    def look(self) -> None:
        """Called about twice a second."""


@contextmanager
def joined() -> Iterator[None]:
    """Ray, joined where ``RAY_ADDRESS`` says, else on this machine alone, listening on loopback and gone afterwards.

    Raises:
        NotOffered: ``ray_not_installed``.
    """
    try:
        import ray
        from ray.data import DataContext
    except ImportError as fault:
        raise NotOffered(
            "the engines of this worker have no Ray: an operator installs ray[data] beside their packages; or submit "
            "the preparation with on=worker",
            code="ray_not_installed", param="on",
        ) from fault  # fmt: skip
    _clear_what_the_dead_left()
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-"))  # for sockets: a job folder's path is too long
    alone = {} if cluster_address() else {"_temp_dir": str(folder), "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **alone)
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Records:
    """Records in the cluster. ``there``: all work on them is done, and they are numbered by their order."""

    data: Any
    watch: Watch
    records: int
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def mapped(self, work: Callable[[pa.Table], pa.Table]) -> Records:
        """With work to be done on every batch."""
        return Records(mapped_by(self.data, work), self.watch, 0)

    def there(self) -> Records:
        """Done."""
        data = self.watch.done(self.data)
        places = np.sort(column_of(data, PLACE))
        return Records(data, self.watch, len(places), places)

    def at(self, positions: np.ndarray) -> pa.RecordBatch:
        """A few of them, as ``tables.View`` gives them."""
        wanted, back = np.unique(self.places[positions], return_inverse=True)
        found = self.watch.done(mapped_by(self.data, OnlyPlaces(wanted)).sort(PLACE))
        tables = list(found.iter_batches(batch_size=None, batch_format="pyarrow"))
        batch = batch_of(pa.concat_tables(tables)) if tables else batch_of(PLACED_SCHEMA.empty_table())
        return without_places(batch).take(pa.array(back))

    def only(self, positions: np.ndarray) -> Records:
        """These positions, in that order."""
        return self.mapped(NewPlaces(self.places, positions))

    def numbers(self, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """What ``work`` makes of all of them, in their order; small."""
        if not self.records:
            return work(PLACED_SCHEMA.empty_table())
        rows = self.watch.done(mapped_by(self.data, work).sort(PLACE))
        return pa.concat_tables(list(rows.iter_batches(batch_size=None, batch_format="pyarrow")))

    def ordered(self) -> Records:
        """Done, and lying in the order of their places."""
        return Records(self.watch.done(self.data.sort(PLACE)), self.watch, self.records)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of them as they lie, so call ``ordered`` before."""
        for table in self.data.iter_batches(batch_size=BATCH_RECORDS, batch_format="pyarrow"):
            yield without_places(batch_of(table))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.batches()


@dataclass(frozen=True)
class Watch:
    """Waits for the cluster without becoming deaf."""

    ledger: Any
    pulse: Pulse

    def done(self, data: Any) -> Any:
        """The data, computed. Raises what the cluster raised, or what ``pulse`` raises meanwhile."""
        import ray

        found, faults = list[Any](), list[BaseException]()

        def work() -> None:
            try:
                found.append(data.materialize())
            except BaseException as fault:
                faults.append(fault)

        thread = threading.Thread(target=work, name="ray", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_EVERY_S)
            self.pulse.read = ray.get(self.ledger.records_read.remote())
            self.pulse.look()
        if faults:
            raise faults[0]
        return found[0]


@dataclass(frozen=True)
class OnlyPlaces:
    """The records of these places; ``places`` ascend."""

    places: np.ndarray

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.isin(table.column(PLACE).to_numpy(), self.places)))


class NewPlaces:
    """New places, and a record as often as it was chosen: ``order`` names positions among ``places``, which ascend."""

    def __init__(self, places: np.ndarray, order: np.ndarray) -> None:
        self._places, self._target = places, np.argsort(order, kind="stable")
        self._chosen = order[self._target]

    def __call__(self, table: pa.Table) -> pa.Table:
        positions = np.searchsorted(self._places, table.column(PLACE).to_numpy())
        first, last = (np.searchsorted(self._chosen, positions, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(np.arange(len(positions)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        found = batch_of(table.take(pa.array(rows)))
        return placed(without_places(found), pa.array(self._target[np.repeat(first, counts) + nth]))


def _clear_what_the_dead_left() -> None:
    """Folders of engines that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        if not Path(f"/proc/{left.name.removeprefix(_FOLDERS).partition('-')[0]}").exists():
            shutil.rmtree(left, ignore_errors=True)


def batch_of(table: pa.Table) -> pa.RecordBatch:
    """One batch in the shelf's schema with its places, whatever an engine made of the columns on the way."""
    found = table.select(PLACED_SCHEMA.names).cast(PLACED_SCHEMA).combine_chunks().to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=PLACED_SCHEMA)


def column_of(data: Any, name: str) -> np.ndarray:
    """One column of numbers, whole."""
    parts = [
        table.column(name).to_numpy()
        for table in data.select_columns([name]).iter_batches(batch_size=None, batch_format="pyarrow")
        if table.num_rows
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def mapped_by(data: Any, work: Callable[[pa.Table], pa.Table]) -> Any:
    """Work travels once to each machine, however large the numbers it carries, and is kept by each process."""
    import ray

    sent = ray.put(work)
    return data.map_batches(lambda table: _here(sent)(table), batch_size=BATCH_RECORDS, batch_format="pyarrow")


_HERE: dict[str, Callable[[pa.Table], pa.Table]] = {}


def _here(sent: Any) -> Callable[[pa.Table], pa.Table]:
    import ray

    key = sent.hex()
    if key not in _HERE:
        if len(_HERE) >= _KEPT_HERE:
            _HERE.clear()
        _HERE[key] = ray.get(sent)
    return _HERE[key]


def placed(batch: pa.RecordBatch, places: pa.Array) -> pa.Table:
    return pa.Table.from_batches([pa.record_batch([*batch.columns, places], schema=PLACED_SCHEMA)])


def without_places(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch(batch.columns[:-1], schema=SHELF_SCHEMA)
