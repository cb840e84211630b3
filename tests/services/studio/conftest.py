"""Fixtures of studio's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from studio_rig import Rig, studio_rig


@pytest_asyncio.fixture
async def studio(tmp_path: Path, database_url: str) -> AsyncIterator[Rig]:
    rig = await studio_rig(tmp_path, database_url=database_url)
    yield rig
    rig.studio.database.close()
