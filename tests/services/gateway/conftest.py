"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from gateway_rig import Rig, gateway_rig

from finery_kit.testing import nats_server


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with nats_server(tmp_path / "nats") as url:
        async with gateway_rig(tmp_path, url) as made:
            yield made
