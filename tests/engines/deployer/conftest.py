"""Serving engines for the tests of this folder: one that they share, and one that a test may stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serving import TOKEN, Client, Server, running, start


@pytest.fixture(scope="session")
def shared_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shared-server")
    server = running(folder, start(folder, tiny_model))
    yield server
    server.terminate()
    assert server.process.wait(timeout=40) == 0


@pytest.fixture
def own_server(tiny_model: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that the test may stop."""
    server = running(tmp_path, start(tmp_path, tiny_model))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
async def client(shared_server: Server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield Client(session, shared_server)


@pytest.fixture
async def own_client(own_server: Server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield Client(session, own_server)


@pytest.fixture(scope="session")
def tokenizer(smollm2_tokenizer: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_tokenizer)
