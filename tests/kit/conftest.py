"""A broker for each module of tests, with the streams of a house, empty at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from nats.aio.client import Client

from finery_contracts.streams import EVENTS
from finery_kit.bus_init import bus_init
from finery_kit.testing import nats_server
from tests.kit.delivery_rig import connected


@pytest.fixture(scope="module")
def shared_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture
async def client(shared_url: str) -> AsyncIterator[Client]:
    async with connected(shared_url) as made:
        await bus_init(made)
        await made.jetstream().purge_stream(EVENTS.name)
        yield made
