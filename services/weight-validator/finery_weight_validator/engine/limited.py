"""Calls a function that touches untrusted bytes in a forked child with hard limits, and brings its answer back.

The child has processor, wall time, memory, file size and answer size bounded, no terminal, no other open file, and dies
with its parent; where the system lets it, it gives up network, other programs, and writing outside one folder. Whatever
happens there, here is an answer or a ``Beyond`` that says which limit was met.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_ml.job import Terminated
from finery_weight_validator.engine import landlock

_PR_SET_PDEATHSIG = 1
_NEW_NETWORK, _NEW_USER = 0x4000_0000, 0x1000_0000
_POLL_S = 0.2
_TEXT = 400


@dataclass(frozen=True)
class Limits:
    """What one call may take; ``memory_bytes`` comes on top of what the process has mapped already.

    ``writable`` is the one folder where files may be written, where the system can hold it to that.
    """

    cpu_s: float
    wall_s: float
    memory_bytes: int
    file_bytes: int = 0
    answer_bytes: int = 8 * 2**20
    writable: Path | None = None


class Beyond(Exception):
    """The call met a limit or crashed; the text says what, in a few words."""


class Failed(Exception):
    """The function raised; the text is the type and message of its exception, ``kind`` the type alone."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind


def call(function: Callable[[], Any], limits: Limits, *, stop: threading.Event | None = None) -> Any:
    """The JSON-able answer of ``function``; raises Beyond, Failed, or Terminated when ``stop`` is set meanwhile."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(write_end, function, limits)
    os.close(write_end)
    try:
        raw, reason = _read(read_end, limits, stop)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if reason is not None:
        raise Beyond(reason)
    return _answer_of(raw, os.waitstatus_to_exitcode(status), limits)


def _read(read_end: int, limits: Limits, stop: threading.Event | None) -> tuple[bytes, str | None]:
    """What the child wrote until it closed its end, or why it was not waited for."""
    pieces, size, deadline = [], 0, time.monotonic() + limits.wall_s
    while (left := deadline - time.monotonic()) > 0:
        if stop is not None and stop.is_set():
            raise Terminated
        if not select.select([read_end], [], [], min(left, _POLL_S))[0]:
            continue
        piece = os.read(read_end, 2**16)
        if not piece:
            return b"".join(pieces), None
        pieces.append(piece)
        size += len(piece)
        if size > limits.answer_bytes:
            return b"", f"it answers with more than {limits.answer_bytes} bytes"
    return b"", f"it takes longer than {limits.wall_s:g} s"


def _answer_of(raw: bytes, status: int, limits: Limits) -> Any:
    if not raw:
        if status in (-signal.SIGXCPU, -signal.SIGPROF):
            raise Beyond(f"it takes more than {limits.cpu_s:g} s of processor time")
        if status == -signal.SIGXFSZ:
            raise Beyond(f"it writes files of more than {limits.file_bytes} bytes")
        raise Beyond(f"it ended the process that tried it (status {status}), or took more memory than it may")
    answer = json.loads(raw)
    if "kind" not in answer:
        return answer["value"]
    if answer["kind"] == "MemoryError":
        raise Beyond(f"it takes more than {limits.memory_bytes // 2**20} MiB of memory")
    raise Failed(answer["kind"], answer["message"])


def _child(write_end: int, function: Callable[[], Any], limits: Limits) -> None:
    """Never returns: the copy of the parent that this is must not go on as the parent."""
    try:
        _confine(write_end, limits)
        try:
            answer: dict[str, Any] = {"value": function()}
        except Exception as fault:  # whatever untrusted bytes make a library raise is an answer
            answer = {"kind": type(fault).__name__, "message": str(fault)[:_TEXT]}
        raw = json.dumps(answer).encode()
        while raw:
            raw = raw[os.write(write_end, raw) :]
    finally:
        os._exit(0)


def _confine(write_end: int, limits: Limits) -> None:
    os.setsid()
    gc.disable()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in {0, 1, 2, *_open_descriptors()} - {write_end, null}:
        os.dup2(null, descriptor)  # not closed: a library that kept one would meet an error, or another file there
    with contextlib.suppress(OSError, AttributeError):
        system = ctypes.CDLL(None)
        system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if system.unshare(_NEW_NETWORK) != 0:  # who may not do it as the machine may do it as a user of its own
            system.unshare(_NEW_USER | _NEW_NETWORK)
    landlock.confine(limits.writable)
    _limit(resource.RLIMIT_CPU, math.ceil(limits.cpu_s) + 1)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _mapped_bytes() + limits.memory_bytes)
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)


def _open_descriptors() -> list[int]:
    """All but the one that lists them."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []
    alive: list[int] = []
    for descriptor in found:
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            alive.append(descriptor)
    return alive


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (most, most))


def _mapped_bytes() -> int:
    """The address space this process has already, most of it libraries."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 4 * 2**30
    return pages * os.sysconf("SC_PAGE_SIZE")
