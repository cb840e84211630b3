"""A serving engine in its own process, and the words a client needs to speak with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from finery_contracts.jobs import ServeJob, ServeReady

TOKEN = "secret-of-the-instance"
READY_WITHIN_S = 60


@dataclass(frozen=True)
class Server:
    """A running engine."""

    process: subprocess.Popen[bytes]
    folder: Path
    ready: ServeReady

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ready.port}"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Answer:
    """An answer that was not streamed."""

    status: int
    body: Any
    headers: Any

    @property
    def texts(self) -> list[str]:
        return [choice["message"]["content"] for choice in self.body["choices"]]

    @property
    def finishes(self) -> list[str]:
        return [choice["finish_reason"] for choice in self.body["choices"]]


class Client:
    """Speaks with one engine."""

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self.session = session
        self.server = server

    async def get(self, path: str) -> Answer:
        async with self.session.get(self.server.url + path) as response:
            return Answer(response.status, await _body(response), response.headers)

    async def post(self, path: str, **parameters: Any) -> Answer:
        async with self.session.post(self.server.url + path, json={"model": "tiny", **parameters}) as response:
            return Answer(response.status, await _body(response), response.headers)

    async def chat(self, **parameters: Any) -> Answer:
        return await self.post("/v1/chat/completions", **with_hello(parameters))

    def open_stream(self, **parameters: Any) -> Any:
        body = {"model": "tiny", "stream": True, **with_hello(parameters)}
        return self.session.post(self.server.url + "/v1/chat/completions", json=body)

    async def stream(self, **parameters: Any) -> list[dict[str, Any]]:
        async with self.open_stream(**parameters) as response:
            assert response.status == 200
            return [chunk async for chunk in chunks_of(response)]


def with_hello(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}], **parameters}


async def chunks_of(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream; a stream that does not end with [DONE] fails the test."""
    async for line in response.content:
        if line == b"data: [DONE]\n":
            return
        if line.strip():
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended without [DONE]")


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The text of one choice of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def start(folder: Path, model: Path, **job: Any) -> subprocess.Popen[bytes]:
    """Start an engine in ``folder``; ``running`` waits until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = ServeJob(
        deployment_id="dep", instance_id="inst", model=str(model), served_name="tiny", token=TOKEN, threads=1, **job
    )
    (folder / "serve.json").write_text(spec.model_dump_json())
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "finery_deployer.engine.cpu", str(folder)]
    with (folder / "log.txt").open("wb") as log_file:
        return subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT, env=environment)


def running(folder: Path, process: subprocess.Popen[bytes]) -> Server:
    """The engine, once ready.json is there."""
    for _ in range(READY_WITHIN_S * 20):
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if (folder / "ready.json").exists():
                return Server(process, folder, ServeReady.model_validate_json((folder / "ready.json").read_bytes()))
        else:
            break
    process.kill()
    raise AssertionError(f"the engine did not get ready: {(folder / 'log.txt').read_text()}")


async def _body(response: aiohttp.ClientResponse) -> Any:
    return await response.json() if response.content_type == "application/json" else await response.text()
