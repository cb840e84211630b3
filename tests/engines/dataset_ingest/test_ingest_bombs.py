"""Archives, workbooks and Parquet files that are made to hurt: each ends with a coded error, soon, nothing executed
and nothing published; good ones that look a little like them are taken.
"""

from __future__ import annotations

import gzip
import random
import sys
import time
from pathlib import Path

import pytest
import zstandard
from bombs import BOMBS, MEGABYTE, columns
from ingest_builders import ingest, lines, message, record
from workbooks import number, row, sheet, text, workbook, zipped

SECONDS = 5.0
"""A second or less on a machine that has nothing else to do; several people may share two cores."""
DONE: list[str] = []
WATCHED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "pty.spawn",
    "pickle.find_class",
)


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED or (event == "open" and "passwd" in str(arguments[0])):
        DONE.append(event)


sys.addaudithook(_watch)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_with_a_coded_error_under_limits(tmp_path: Path, name: str) -> None:
    content = BOMBS[name]()
    DONE.clear()
    began = time.process_time()

    done = ingest(tmp_path, content, filename="people", bad_records="skip", bad_ceiling=1.0)

    assert time.process_time() - began < SECONDS
    assert done.status == 2, done.result
    assert done.result.error is not None
    assert done.result.error.code not in ("", "engine_failed")
    assert len(done.result.error.message) < 2_000
    assert not list((done.folder / "out").glob("*records*"))
    assert DONE == []


def test_there_are_bombs_enough() -> None:
    assert len(BOMBS) >= 60


CHANCE = random.Random(11)
WORDS = [f"word{number}" for number in range(400)]
REAL = lines(
    *[record(message(content=" ".join(CHANCE.choices(WORDS, k=12)))) | record() for _ in range(3_000)]
).encode()
GOOD: dict[str, bytes] = {
    "a workbook of many rows": workbook(
        sheet(*[row(number(str(n)), text(" ".join(CHANCE.choices(WORDS, k=5))), text("b")) for n in range(1, 9_000)])
    ),
    "a workbook with one label everywhere": workbook(
        sheet(*[row(number(str(n)), text(f"q{n}"), '<c t="s"><v>0</v></c>') for n in range(1, 9_000)]),
        strings="<si><t>positive</t></si>",
    ),
    "a gzip of very similar records": gzip.compress(lines(*[record()] * 90_000).encode()),
    "a Zstandard file of very similar records": zstandard.compress(lines(*[record()] * 90_000).encode(), 3),
    "a zip of two hundred files": zipped({f"{n}.jsonl": REAL[: REAL.index(b"\n") + 1] for n in range(200)}),
    "a zip of similar files": zipped({f"{n}.jsonl": lines(*[record()] * 3_000).encode() for n in range(9)}),
    "a gzip of blocks": b"".join(gzip.compress(REAL[at : at + 2**14]) for at in range(0, len(REAL), 2**14)),
    "a Zstandard file of blocks": b"".join(
        zstandard.compress(REAL[at : at + 2**14]) for at in range(0, len(REAL), 2**14)
    ),
    "a Parquet file of equal texts": columns(text=["the same text again and again"] * 200_000),
    "a Parquet file of long texts": columns(text=["x" * 3 * MEGABYTE, "y" * 3 * MEGABYTE]),
    "a record of fourteen megabytes": gzip.compress(
        lines(record(message(content="x" * 7 * MEGABYTE), message("assistant", "y" * 7 * MEGABYTE))).encode()
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_that_looks_a_little_like_a_bomb_is_taken(tmp_path: Path, name: str) -> None:
    done = ingest(tmp_path, GOOD[name], filename="people")

    assert done.status == 0, done.result.error
