"""Chains on Ray: a cluster of this machine's cores leaves the bytes and reports that the worker leaves; and its parts,
pieces, judges, key rows and partitions, decide as one machine does.
"""

from __future__ import annotations

import json
import pickle
import random
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from canonical_builders import canonical_file, chat, prepared, source
from pydantic import TypeAdapter

from finery_contracts.cleansing import Step
from finery_dataset_ingest.engine import distributed
from finery_dataset_ingest.engine.cluster import PLACE, NewPlaces, OnlyPlaces
from finery_dataset_ingest.engine.distributed import KeyRows, SplitRows
from finery_dataset_ingest.engine.steps.chance import choose_sides, sides_of
from finery_dataset_ingest.engine.steps.table import Ground, chooser_of
from finery_dataset_ingest.engine.tables import Shelf, Source, View, open_source


def step_of(**said: Any) -> Any:
    return TypeAdapter(Step).validate_python(said)


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    dice = random.Random(3)
    said = list[str]()
    for _ in range(260):
        words = (
            dice.choice(said).split()
            if said and dice.random() < 0.4
            else dice.choices(["ab", "cd", "ef", "gh", "ij", "kl"], k=40)
        )
        if dice.random() < 0.5:
            words[dice.randrange(len(words))] = f"word{dice.randrange(99)}"
        said.append(" ".join(words))
    halves = (said[:150], said[150:])
    files = [canonical_file(tmp_path / f"{n}.parquet", list(map(chat, half))) for n, half in enumerate(halves)]
    return [open_source(path, number=n, dataset=f"ds_{n}") for n, path in enumerate(files)]


def tables_of(sources: list[Source]) -> list[pa.Table]:
    """As a cluster reads them: each piece by itself, in any order."""
    pieces = list(distributed.pieces_of(sources))
    random.Random(1).shuffle(pieces)
    read = distributed.ReadPieces(Mock())
    return [table for piece in pieces for table in read(pa.Table.from_pylist([piece]))]


def view_of_all(sources: list[Source], folder: Path) -> View:
    return Shelf(folder / "all.arrow", chain.from_iterable(source.batches() for source in sources)).all()


def test_pieces_hold_every_record_once_with_its_place(sources: list[Source], tmp_path: Path) -> None:
    tables = tables_of(sources)
    assert len(tables) == 4  # row groups of 100: two of 150 records, two of 110
    whole = pa.concat_tables(tables).sort_by(PLACE)
    assert whole.column(PLACE).to_pylist() == list(range(260))
    local = view_of_all(sources, tmp_path).at(np.arange(260))
    assert whole.drop_columns([PLACE]).to_pylist() == local.to_pylist()


@pytest.mark.parametrize("partitions", [1, 7])
@pytest.mark.parametrize("said", [{"step": "exact_duplicates"}, {"step": "near_duplicates", "threshold": 0.7}])
def test_partitions_find_the_duplicates_that_one_machine_finds(
    sources: list[Source], tmp_path: Path, said: dict[str, Any], partitions: int
) -> None:
    step = step_of(**said)
    rows = pa.concat_tables([KeyRows(step, partitions)(table) for table in tables_of(sources)])
    parts = rows.column(distributed.PART).to_numpy()
    pairs = pa.concat_tables([distributed.repeated(rows.filter(pa.array(parts == part))) for part in range(partitions)])
    gone = np.unique(pairs.column(PLACE).to_numpy())
    view = view_of_all(sources, tmp_path)
    chooser = chooser_of(step, Ground())
    assert chooser is not None
    if step.step == "near_duplicates":
        alike = np.union1d(gone, pairs.column("first").to_numpy())
        gone = np.delete(alike, chooser(view.only(alike)).kept)
    local = chooser(view).kept
    assert 0 < len(gone) < 260
    assert np.array_equal(np.setdiff1d(np.arange(260), gone), local)


def test_a_split_is_decided_from_numbers_as_from_records(sources: list[Source], tmp_path: Path) -> None:
    step = step_of(step="split", validation=0.2)
    rows = pa.concat_tables([SplitRows(step)(table) for table in tables_of(sources)]).sort_by(PLACE)
    numbers = np.stack([rows.column(f"k{n}").to_numpy() for n in range(5)], axis=1)
    local = choose_sides(view_of_all(sources, tmp_path), step, 3)
    assert np.array_equal(sides_of(numbers, step, 3).kept, local.kept)


def test_records_get_new_places_as_often_as_they_were_chosen(sources: list[Source], tmp_path: Path) -> None:
    tables = [OnlyPlaces(np.array([3, 50, 51, 120, 259]))(table) for table in tables_of(sources)]
    work = pickle.loads(pickle.dumps(NewPlaces(np.array([3, 50, 51, 120, 259]), np.array([4, 0, 4, 2]))))
    moved = pa.concat_tables([work(table) for table in tables]).sort_by(PLACE)
    assert moved.column(PLACE).to_pylist() == [0, 1, 2, 3]
    wanted = view_of_all(sources, tmp_path).at(np.array([259, 3, 259, 51]))
    assert moved.drop_columns([PLACE]).to_pylist() == wanted.to_pylist()


CHAIN: list[dict[str, Any]] = [
    {"step": "sample", "share": 0.9}, {"step": "missing"}, {"step": "exact_duplicates"},
    {"step": "near_duplicates", "threshold": 0.7}, {"step": "contamination", "against": ["held"], "overlap": 0.6},
    {"step": "mix", "weights": [1, 3], "when_short": "repeat"}, {"step": "shuffle"},
    {"step": "split", "validation": 0.2}, {"step": "length", "max": 127},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Ray's own, of itself
@pytest.mark.timeout(300)
def test_a_cluster_leaves_what_the_worker_leaves(tmp_path: Path, sources: list[Source]) -> None:
    held = canonical_file(tmp_path / "held.parquet", [chat("ab cd ef gh")])
    said = {"seed": 5, "examples": 7, "references": [source(held, name="held").model_dump()]}
    paths = [one.path for one in sources]
    local, far = (prepared(tmp_path / on, paths, CHAIN, on=on, **said) for on in ("worker", "ray"))
    assert far.result == local.result
    assert all(report.records_in > report.removed for report in local.output.steps)
    for file in ("records.parquet", "validation.parquet", "report.json", "stats.json"):
        left, right = tmp_path / "worker/out" / file, tmp_path / "ray/out" / file
        assert left.is_file() == right.is_file()
        if left.is_file():
            assert right.read_bytes() == left.read_bytes(), file
    assert examples(tmp_path / "ray") == examples(tmp_path / "worker") != Counter()


def examples(folder: Path) -> Counter[tuple[int, str]]:
    """How many of each step; which records are shown follows the batches."""
    lines = (folder / "out" / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter((shown["place"], shown["outcome"]) for shown in map(json.loads, lines))


def test_without_ray_it_is_refused_with_the_remedy(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    made = prepared(tmp_path / "job", [sources[0].path], [{"step": "missing"}], on="ray")
    assert made.result.error is not None
    assert made.result.error.code == "ray_not_installed"
    assert not (tmp_path / "job" / "out" / "records.parquet").exists()
