"""Tails of files that engines write: every line once, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

from finery_kit.tail import MAX_READ, Tail, Tails


def test_a_json_line_stays_whole_whatever_unicode_calls_a_line_end(tmp_path: Path) -> None:
    line = json.dumps({"message": "one\u2028two\u0085three\x0bfour"}, ensure_ascii=False)
    (tmp_path / "progress.jsonl").write_text(line + "\n", encoding="utf-8")
    assert Tails(tmp_path).progress.read() == [line]


def test_a_progress_bar_is_many_lines(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"1%\r2%\r\n3%\n")
    assert Tails(tmp_path).log.read() == ["1%", "2%", "3%"]


def test_a_line_without_end_comes_in_pieces_and_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff" * MAX_READ + b"end\n")
    tail = Tail(path)
    pieces = [tail.read(), tail.read(), tail.read()]
    assert [len(piece) for piece in pieces] == [1, 1, 0]
    assert pieces[1] == ["end"]


def test_a_tail_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    first = Tail(path)
    first.read()
    path.write_text("one\ntwo\n")
    assert Tail(path, first.offset).read() == ["two"]
