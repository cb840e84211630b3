"""An object store that says exactly what a test wants, also what no honest one would: names that climb, or come twice.

It knows the two requests that engines make, and no signatures; the standard library is all it needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote
from xml.sax.saxutils import escape

from finery_contracts.sources import Endpoint, Limits, Origin, S3Source

POLL_S = 0.01


@dataclass
class PlainStore:
    """Objects of the bucket ``lake``, as (key, content); ``fetched`` are the keys that were asked for."""

    objects: Sequence[tuple[str, bytes]]
    url: str = ""
    fetched: list[str] = field(default_factory=list[str])

    def origin(self, place: str) -> Origin:
        """As a claim holds it."""
        keys = {"access_key": "AKIAEXAMPLE", "secret_key": "secret"}
        limits = Limits(allow_networks=["127.0.0.0/8"], stall_s=5, timeout_s=60)
        return Origin(
            source=S3Source(url=place), endpoint=Endpoint(kind="s3", url=self.url), limits=limits, secret=keys
        )

    def answer(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        if "list-type=2" in query:
            entries = (
                f"<Contents><Key>{escape(key)}</Key><Size>{len(said)}</Size></Contents>" for key, said in self.objects
            )
            return f"<ListBucketResult>{''.join(entries)}</ListBucketResult>".encode()
        key = unquote(path.removeprefix("/lake/"))
        self.fetched.append(key)
        return dict(self.objects)[key]


@contextlib.contextmanager
def plain_store(objects: Sequence[tuple[str, bytes]]) -> Iterator[PlainStore]:
    """It runs while the block does."""
    store = PlainStore(objects)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = store.answer(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(POLL_S,))
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()


def objects_of(folder: Path, prefix: str) -> list[tuple[str, bytes]]:
    """Every plain file below a folder, as an upload of the folder would leave it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in files]
