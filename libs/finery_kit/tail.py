"""Reads what was appended to a file since last time, by whole lines."""

from __future__ import annotations

import re
from pathlib import Path

MAX_READ = 1 << 20
_LINE_END = re.compile(r"[\r\n]+")  # not what else Unicode calls one: JSON does not escape it


class Tail:
    """A place in a growing file; a file that is not there yet is empty."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[str]:
        """The complete lines since last time, at most one megabyte of them; half a line waits for its end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(MAX_READ)
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == MAX_READ:  # a line without end: pass it on in pieces
            end = len(data)
        self.offset += end
        return [line for line in _LINE_END.split(data[:end].decode(errors="replace")) if line.strip()]


class Tails:
    """The three files an engine appends to."""

    def __init__(self, folder: Path) -> None:
        self.progress = Tail(folder / "progress.jsonl")
        self.log = Tail(folder / "log.txt")
        self.spans = Tail(folder / "spans.jsonl")
