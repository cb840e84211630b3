"""Fixtures of studio's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from studio_posts import Letters, Owner
from studio_rig import Rig, studio_rig

from finery_studio.edge import forward


@pytest_asyncio.fixture
async def studio(tmp_path: Path, database_url: str) -> AsyncIterator[Rig]:
    rig = await studio_rig(tmp_path, database_url=database_url)
    yield rig
    rig.studio.database.close()


@pytest.fixture
def owner(studio: Rig, monkeypatch: pytest.MonkeyPatch) -> Owner:
    owner = Owner()
    studio.studio._ask = forward.Ask(owner)

    async def silent() -> None:
        return None

    monkeypatch.setattr(studio.studio, "tell_keys", silent)
    monkeypatch.setattr("finery_studio.events.dead.DeadLetters", partial(Letters, owner))
    monkeypatch.setattr(type(studio.studio.service), "jetstream", None)
    return owner
