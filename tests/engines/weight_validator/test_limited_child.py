"""What a function in a limited child may take, and what becomes of one that takes more."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery_ml.job import Terminated
from finery_weight_validator.engine.limited import Beyond, Failed, Limits, call

SMALL = Limits(cpu_s=0.3, wall_s=3.0, memory_bytes=64 * 2**20, answer_bytes=2**20)


def test_an_answer_comes_back_as_it_was_given() -> None:
    assert call(lambda: {"a": [1, "ä", None]}, SMALL) == {"a": [1, "ä", None]}


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(("taken", "word"), [
    (_spin, "processor time"), (lambda: time.sleep(60), "longer than"), (lambda: len(bytearray(2**30)), "memory"),
    (lambda: "x" * 2**21, "answers with more"), (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended the process"),
])  # fmt: skip
def test_a_limit_that_is_met_ends_the_child_alone(taken: Callable[[], Any], word: str) -> None:
    with pytest.raises(Beyond, match=word):
        call(taken, SMALL)


def test_what_a_function_raises_is_told() -> None:
    with pytest.raises(Failed, match="ZeroDivisionError: division by zero"):
        call(lambda: 1 / 0, SMALL)


def test_a_child_is_stopped_with_its_engine() -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(Terminated):
        call(lambda: time.sleep(60), SMALL, stop=stop)


def test_a_child_writes_into_its_own_folder_alone(tmp_path: Path) -> None:
    room, outside = tmp_path / "room", tmp_path / "outside"
    room.mkdir()
    limits = Limits(cpu_s=1.0, wall_s=5.0, memory_bytes=2**28, file_bytes=100, writable=room)

    assert call(lambda: (room / "a").write_bytes(b"x" * 100), limits) == 100
    with pytest.raises(Failed, match="OSError"):
        call(lambda: (room / "b").write_bytes(b"x" * 101), limits)
    with pytest.raises(Failed, match="PermissionError"):
        call(lambda: outside.write_bytes(b"x"), limits)
    with pytest.raises(Failed, match="PermissionError"):
        call(lambda: (room / "a").rename(outside), limits)
    assert not outside.exists()


def test_a_child_reaches_no_program_and_no_network(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    with listener, pytest.raises(Failed, match=r"OSError|PermissionError"):
        call(lambda: socket.create_connection(address, 1).close(), SMALL)
    assert call(lambda: os.system(f"touch {tmp_path / 'ran'}"), SMALL) != 0
    assert not (tmp_path / "ran").exists()


def test_a_child_holds_no_file_of_its_parent(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("wb+") as secret:
        secret.write(b"x")
        secret.flush()

        assert call(lambda: len(os.pread(secret.fileno(), 1, 0)), SMALL) == 0
