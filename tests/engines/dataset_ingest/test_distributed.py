"""What a cluster is given to do, without one: pieces, judges, key rows and partitions decide as one machine does."""

from __future__ import annotations

import pickle
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from canonical_builders import canonical_file, chat
from pydantic import TypeAdapter

from finery_contracts.cleansing import Step
from finery_contracts.errors import NotOffered
from finery_dataset_ingest.engine import distributed
from finery_dataset_ingest.engine.distributed import PLACE, JudgeBatch, KeepPlaces, KeyRows, SplitRows
from finery_dataset_ingest.engine.steps.chance import choose_sides, sides_of
from finery_dataset_ingest.engine.steps.table import Ground, chooser_of, judge_of
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
    return [table for piece in pieces for table in distributed.read_pieces(pa.Table.from_pylist([piece]))]


def view_of_all(sources: list[Source], folder: Path) -> View:
    return Shelf(folder / "all.arrow", chain.from_iterable(source.batches() for source in sources)).all()


def test_pieces_hold_every_record_once_with_its_place(sources: list[Source], tmp_path: Path) -> None:
    tables = tables_of(sources)
    assert len(tables) == 4  # row groups of 100: two of 150 records, two of 110
    whole = pa.concat_tables(tables).sort_by(PLACE)
    assert whole.column(PLACE).to_pylist() == list(range(260))
    local = view_of_all(sources, tmp_path).at(np.arange(260))
    assert whole.drop_columns([PLACE]).to_pylist() == local.to_pylist()


def test_a_judge_travels_and_judges_as_at_home(sources: list[Source], tmp_path: Path) -> None:
    step = step_of(step="length", max=127)
    work = pickle.loads(pickle.dumps(JudgeBatch(step, Ground())))
    kept = np.sort(np.concatenate([work(table).column(PLACE).to_numpy() for table in tables_of(sources)]))
    judged = judge_of(step, Ground())(view_of_all(sources, tmp_path).at(np.arange(260)))
    assert 0 < len(judged.removed) < 260
    assert kept.tolist() == [place for place in range(260) if place not in judged.removed]


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
    assert local.validation is not None
    kept = [KeepPlaces(local.validation)(table) for table in tables_of(sources)]
    assert sorted(pa.concat_tables(kept).column(PLACE).to_pylist()) == local.validation.tolist()


def test_what_no_partition_can_decide_is_refused_by_its_place() -> None:
    steps = [step_of(step="missing"), step_of(step="shuffle")]
    with pytest.raises(NotOffered) as fault:
        distributed.refuse_what_cannot_be(steps)
    assert (fault.value.error_code, fault.value.param) == ("step_not_distributed", "steps.1.step")
