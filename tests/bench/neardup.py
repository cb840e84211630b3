"""Near duplicates: records a second of the whole step (read, shingle, find, verify, write) against rensa alone.

Rensa is used as its own description shows it, on texts that lie in memory already and are only estimated, never
verified. Both run in the engines' environment: ``python -m tests.bench.neardup`` there prints the ratios.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS, RECORDS = 5, 20_000
GOAL = 0.5
THRESHOLD, NGRAM, PERMUTATIONS, BANDS = 0.8, 5, 128, 16


def measure() -> list[float]:
    """Our rate by rensa's, for each pair of runs."""
    from finery_kit.executor import environments_folder

    python = environments_folder() / "ml" / "bin" / "python"
    done = subprocess.run([str(python), "-m", "tests.bench.neardup"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def texts() -> list[str]:
    """Half English-like, half Chinese; a fifth differ from another in one word."""
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(5_000)]
    hanzi = ["".join(chr(dice.randint(0x4E00, 0x5FFF)) for _ in range(dice.randint(1, 3))) for _ in range(5_000)]
    made = list[list[str]]()
    for number in range(RECORDS):
        if made and dice.random() < 0.2:
            said = list(dice.choice(made))
            said[dice.randrange(len(said))] = "changed"
        else:
            said = dice.choices(hanzi if number % 2 else words, k=60)
        made.append(said)
    return [" ".join(said) for said in made]


def main() -> None:
    """By turns, so that the machine's mood meets both alike; the first pair warms up."""
    with tempfile.TemporaryDirectory() as name:
        folder, said = Path(name), texts()
        _write(folder / "texts.parquet", said)
        ratios = []
        for _ in range(RUNS + 1):
            ours, removed = _timed(lambda: _ours(folder))
            bare, estimated = _timed(lambda: _bare(said))
            assert abs(removed - estimated) < RECORDS / 50, (removed, estimated)
            ratios.append(bare / ours)
        print(json.dumps(ratios[1:]))


def _timed(work: Any) -> tuple[float, int]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _ours(folder: Path) -> int:
    from finery_contracts.cleansing import NearDuplicates
    from finery_contracts.datasets import DataKind
    from finery_dataset_ingest.engine.canonical import CanonicalWriter
    from finery_dataset_ingest.engine.chain import run_chain
    from finery_dataset_ingest.engine.steps.table import Ground
    from finery_dataset_ingest.engine.tables import open_source

    step = NearDuplicates(step="near_duplicates", threshold=THRESHOLD, ngram=NGRAM, permutations=PERMUTATIONS)
    source = open_source(folder / "texts.parquet", number=0, dataset="texts")
    made = run_chain(source.batches(), [step], Ground(), folder=folder)
    writer = CanonicalWriter(folder / "made.parquet", DataKind.TEXT)
    for batch in made.train:
        writer.add(batch)
    writer.publish()
    made.close()
    return made.reports[0].removed


def _bare(said: list[str]) -> int:
    import rensa

    known = rensa.RMinHashDeduplicator(THRESHOLD, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=42)
    twice = 0
    for number, text in enumerate(said):
        sketch = rensa.RMinHash(PERMUTATIONS, 42)
        sketch.update([text[place : place + NGRAM] for place in range(max(1, len(text) - NGRAM + 1))])
        twice += not known.add(str(number), sketch)
    return twice


def _write(path: Path, said: list[str]) -> None:
    import pyarrow as pa

    from finery_contracts.datasets import DataKind
    from finery_dataset_ingest.engine.canonical import CanonicalWriter
    from finery_dataset_ingest.engine.tables import SHELF_SCHEMA

    rows = [{"messages": [], "text": text, "line": line, "_input": 0} for line, text in enumerate(said, start=1)]
    writer = CanonicalWriter(path, DataKind.TEXT)
    writer.add(pa.RecordBatch.from_pylist(rows, schema=SHELF_SCHEMA))
    writer.publish()


if __name__ == "__main__":
    main()
