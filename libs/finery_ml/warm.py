"""A host that has the heavy imports done and forks an engine in milliseconds. It knows no job, only module and folder.

    python -m finery_ml.warm SOCKET MODULE,MODULE…

One connection is one engine: the first line is ``{"module", "folder", "env"}``, the answer ``{"pid"}``, later
``{"status"}``. The connection is also the engine's life line: when the asker's end closes, the engine stops. The host
itself leaves when its standard input closes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Import, listen, fork, reap; until standard input closes."""
    path, preload = (argv or sys.argv[1:])[:2]
    listener = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)
    listener.bind(path)
    listener.listen(64)
    for name in filter(None, preload.split(",")):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    print(json.dumps({"ready": True}), flush=True)
    _serve(listener)
    return 0


def _serve(listener: socket.socket) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    engines: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([listener, read_end, sys.stdin], [], [], 60)
        if read_end in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(read_end, 512)
        _reap(engines)
        if sys.stdin in readable:
            return
        if listener in readable:
            connection, _ = listener.accept()
            request = json.loads(connection.makefile("rb").readline() or b"{}")
            if not request:
                connection.close()
                continue
            # The next engine of this kind finds its module imported; a faulty one fails in the child, with its log.
            with contextlib.suppress(Exception):
                importlib.import_module(request["module"])
            pid = os.fork()
            if pid == 0:
                listener.close()
                os._exit(_become_engine(connection, request))
            engines[pid] = connection
            _say(connection, {"pid": pid})


def _reap(engines: dict[int, socket.socket]) -> None:
    while engines:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        connection = engines.pop(pid, None)
        if connection is not None:
            _say(connection, {"status": os.waitstatus_to_exitcode(status)})
            connection.close()


def _say(connection: socket.socket, words: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(words).encode() + b"\n")


def _become_engine(connection: socket.socket, request: dict[str, Any]) -> int:
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = request["folder"]
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(request.get("env", {}))
    if request.get("life_line", True):
        os.environ["FINERY_LIFE_LINE"] = str(connection.fileno())
    else:
        connection.close()
    try:
        status: int = importlib.import_module(request["module"]).main([folder])
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
