"""Ingest against what others would take: `datasets` with a map, a bare msgspec pass; and its memory on a large file.

Everything runs in the engines' environment, each pass in a process of its own, on a file that is made here and removed
afterwards. The passes take turns, so that a machine that is busy for a while is busy for both.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finery_kit.executor import environments_folder

ROUNDS = 5
RECORDS = 200_000
LARGE_BYTES = 5 * 10**9
"""FINERY_BENCH_INGEST_BYTES makes the large file smaller, to try the bench."""
WORDS = [
    "the",
    "of",
    "model",
    "data",
    "train",
    "tune",
    "answer",
    "question",
    "is",
    "a",
    "to",
    "and",
    "with",
    "how",
    "what",
    "one",
    "two",
    "训练",
    "数据",
    "模型",
    "你好",
    "天气",
    "问题",
    "回答",
]


def against_datasets() -> list[float]:
    """Records a second of the whole engine over those of load_dataset and map."""
    return _ratios("engine", "datasets")


def against_msgspec() -> list[float]:
    """Records a second of parse and check over those of a bare msgspec pass."""
    return _ratios("check", "msgspec")


def memory_mb() -> list[float]:
    """Peak memory of the engine on a large file."""
    size = int(os.environ.get("FINERY_BENCH_INGEST_BYTES", LARGE_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jsonl"
        _write(path, size_bytes=size)
        return [_run("memory", path)]


def _ratios(ours: str, theirs: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.jsonl"
        _write(path, records=RECORDS)
        return [_run(theirs, path) / _run(ours, path) for _ in range(ROUNDS)]


def _write(path: Path, *, records: int | None = None, size_bytes: int = 0) -> None:
    """Conversations of two to six messages, English and Chinese, all different; repeated in blocks when many."""
    chance = random.Random(7)
    written = count = 0
    with path.open("w", encoding="utf-8") as file:
        for block in _blocks(chance):
            if (records is not None and count >= records) or (records is None and written >= size_bytes):
                return
            written += file.write(block)
            count += 1_000


def _blocks(chance: random.Random) -> Iterator[str]:
    made: list[str] = []
    while True:
        if len(made) < 200:
            made.append("".join(_line(chance) for _ in range(1_000)))
        yield made[-1] if len(made) < 200 else chance.choice(made)


def _line(chance: random.Random) -> str:
    turns = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        for role, length in (("user", 20), ("assistant", 40)):
            turns.append({"role": role, "content": " ".join(chance.choices(WORDS, k=chance.randint(5, 2 * length)))})
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def _run(what: str, path: Path) -> float:
    """Seconds (or megabytes) that a pass says it took."""
    python = environments_folder() / "ml" / "bin" / "python"
    with _scratch(path.parent) as folder:
        program = [str(python), "-m", "tests.bench.ingest_passes", what, str(path), str(folder)]
        done = subprocess.run(program, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        yield Path(folder)
