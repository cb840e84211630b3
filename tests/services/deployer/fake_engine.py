"""A serving engine without a model: keeps the files and paths of the real one, and does as behaviour.json says.

Run: python fake_engine.py JOB_DIR. The behaviour lies in the folder that serve.json names as the model.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main(folder: Path) -> int:
    """Serve until SIGTERM, or fail as told."""
    job = json.loads((folder / "serve.json").read_text())
    behaviour: dict[str, Any] = json.loads((Path(job["model"]) / "behaviour.json").read_text())
    print(f"loading {Path(job['model']).name}", flush=True)
    if behaviour.get("crash"):
        print("RuntimeError: the weights are torn", flush=True)
        return 1
    if behaviour.get("refuse"):
        error = {"code": "weights_unsupported", "message": "this architecture is not served; choose another model"}
        publish(folder / "result.json", {"status": "failed", "error": error})
        return 2
    if behaviour.get("never_ready"):
        threading.Event().wait()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(job, behaviour))
    if behaviour.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    publish(
        folder / "ready.json",
        {"pid": os.getpid(), "port": server.server_address[1], "max_length": job["max_length"]},
    )
    server.serve_forever()
    return 0


def handler_of(job: dict[str, Any], behaviour: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    """The two paths the deployer asks for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(503 if (Path(job["model"]) / "sick").exists() else 200, {})
            elif self.headers.get("Authorization") != f"Bearer {job['token']}":
                self.answer(401, {})
            else:
                self.answer(200, {"active": 0, "served": 0, "idle_s": behaviour.get("idle_s", 0.0)})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            self.send_response(status)
            data = json.dumps(body).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def publish(path: Path, body: dict[str, Any]) -> None:
    """By rename."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(body))
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
