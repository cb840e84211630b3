"""One pass over a file of conversations, timed: ``python -m tests.bench.ingest_passes WHAT FILE FOLDER``.

The same validation in each: known roles, texts with something in them, an answer last. Run by the engines' Python.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec as library


class Message(library.Struct, forbid_unknown_fields=True, gc=False):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, library.Meta(min_length=1)]


class Record(library.Struct, forbid_unknown_fields=True, gc=False):
    """One line."""

    messages: Annotated[list[Message], library.Meta(min_length=1)]


ROLES = frozenset({"system", "user", "assistant"})


def engine(path: Path, folder: Path) -> float:
    """The whole engine: parse, check, count, write."""
    from finery_dataset_ingest.engine.ingest import main

    spec = {"kind": "ingest", "source": str(path), "filename": path.name}
    (folder / "job.json").write_text(json.dumps({"task_id": "t", "attempt": 1, "project_id": "p", "spec": spec}))
    began = time.perf_counter()
    assert main([str(folder)]) == 0
    return time.perf_counter() - began


def check(path: Path, folder: Path) -> float:
    """The engine's parse and check, as far as columns."""
    from finery_dataset_ingest.engine.batches import read_batches

    del folder
    began, records = time.perf_counter(), 0
    with path.open("rb") as file:
        for batch in read_batches(file):
            records += batch.num_rows  # type: ignore[union-attr]
    assert records
    return time.perf_counter() - began


def msgspec(path: Path, folder: Path) -> float:
    """A line at a time into typed structs, and the same checks on them."""
    del folder
    decode, bad = library.json.Decoder(Record).decode, 0
    gc.disable()
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            record = decode(line)
            bad += record.messages[-1].role != "assistant"
            for message in record.messages:
                bad += message.content.isspace()
    assert bad == 0
    return time.perf_counter() - began


def datasets(path: Path, folder: Path) -> float:
    """load_dataset and a map with the same checks."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    began = time.perf_counter()
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    checked: Any = loaded.map(lambda record: {"good": _is_good(record)})
    assert all(checked["good"])
    return time.perf_counter() - began


def memory(path: Path, folder: Path) -> float:
    """Peak memory of the engine, in MB."""
    engine(path, folder)
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 10**6


def _is_good(record: dict[str, Any]) -> bool:
    messages = record["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        return False
    return all(one["role"] in ROLES and one["content"] and not one["content"].isspace() for one in messages)


PASSES = {"engine": engine, "check": check, "msgspec": msgspec, "datasets": datasets, "memory": memory}

if __name__ == "__main__":
    print(PASSES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])))
