"""Fixtures of the notifier's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from notifier_rig import Rig, Sink, notifier_rig, sink_server

from finery_kit.testing import VirtualClock


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with sink_server(Sink()) as made:
        yield made


@pytest.fixture
async def rig(tmp_path: Path, service_database: str) -> AsyncIterator[Rig]:
    async with notifier_rig(tmp_path, VirtualClock()) as made:
        yield made
