"""Builders for sources: a job folder that fetches, servers that say what a test wants, a port for Postgres."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery_contracts.jobs import EngineJob, IngestSpec, JobResult
from finery_contracts.sources import SOURCE, Endpoint, FetchedBytes, Limits, Origin
from finery_dataset_ingest.engine.sources.fetching import fetch
from finery_ml.job import JobFolder

LOCAL = ["127.0.0.0/8"]


@dataclass(frozen=True)
class Came:
    """What a fetch left."""

    files: dict[str, bytes]
    summary: FetchedBytes | None
    work: JobFolder

    @property
    def only(self) -> bytes:
        (content,) = self.files.values()
        return content

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.only.decode().splitlines()]


def fetched(
    folder: Path, source: Any, *, endpoint: Endpoint | None = None, secret: dict[str, str] | None = None,
    filename: str = "train", **limits: Any,
) -> Came:  # fmt: skip
    """Fetch as the engine does, under these limits; loopback is allowed unless the test says otherwise."""
    told = Limits(**{"allow_networks": LOCAL, "stall_s": 5, "timeout_s": 60, "statement_s": 20, **limits})
    origin = Origin(source=SOURCE.validate_python(source), endpoint=endpoint, limits=told, secret=secret or {})
    job = EngineJob(task_id="task_1", attempt=1, project_id="prj_1", spec=IngestSpec(origin=origin, filename=filename))
    place = folder / "job"
    place.mkdir()
    (place / "job.json").write_text(job.model_dump_json())
    work = JobFolder(place)
    try:
        files, summary = fetch(work, work.job.spec)  # type: ignore[arg-type]
    finally:
        work.leave(JobResult(status="terminated"))
    return Came({name: path.read_bytes() for path, name in files}, summary, work)


Answer = Callable[[socket.socket, bytes], None]


@dataclass
class Server:
    """Answers each connection by the next of its answers, the last one for ever; keeps what was asked."""

    answers: Sequence[Answer]
    asked: list[bytes] = field(default_factory=list[bytes])
    port: int = 0

    def url(self, path: str = "/train.jsonl", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = door.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            number = len(self.asked)
            self.asked.append(head)
            self.answers[min(number, len(self.answers) - 1)](connection, head)


@contextlib.contextmanager
def server(*answers: Answer) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        made = Server(answers, port=door.getsockname()[1])
        threading.Thread(target=made.serve, args=(door,), daemon=True).start()
        yield made
        door.shutdown(socket.SHUT_RDWR)


def says(body: bytes = b"", status: str = "200 OK", **headers: Any) -> Answer:
    """One whole answer."""
    named = {"Content-Length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value is not None)

    def answer(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


@contextlib.contextmanager
def tcp_to(path: Path) -> Iterator[int]:
    """A port of loopback behind which a unix socket answers."""
    ends = list[socket.socket]()
    threads = list[threading.Thread]()

    def begin(work: Callable[..., None], *told: Any) -> None:
        threads.append(threading.Thread(target=work, args=told, daemon=True))
        threads[-1].start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = door.accept()[0], socket.socket(socket.AF_UNIX)
                ends.extend((near, far))
                far.connect(str(path))
                begin(pump, near, far)
                begin(pump, far, near)

    with socket.create_server(("127.0.0.1", 0)) as door:
        begin(serve)
        try:
            yield door.getsockname()[1]
        finally:
            for end in (door, *ends):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=10)
            for end in ends:
                end.close()
