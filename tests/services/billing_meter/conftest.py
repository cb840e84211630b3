"""Fixtures of the billing meter's tests. On Postgres too, when FINERY_TEST_POSTGRES_URL names one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from billing_rig import Rig
from sqlalchemy import create_engine

from finery_billing_meter.ledger.store import BILLING_METADATA
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.testing import VirtualClock

POSTGRES_URL = os.environ.get("FINERY_TEST_POSTGRES_URL")


@pytest.fixture(params=["sqlite", *(["postgres"] if POSTGRES_URL else [])])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    url = f"sqlite:///{tmp_path / 'b.sqlite'}" if request.param == "sqlite" else str(POSTGRES_URL)
    clock = VirtualClock()
    database = Database(url, BILLING_METADATA, DELIVERY_METADATA, clock=clock)
    database.open()
    yield Rig(database, clock=clock)
    database.close()
    if request.param == "postgres":
        engine = create_engine(url)
        for metadata in (BILLING_METADATA, DELIVERY_METADATA):
            metadata.drop_all(engine)
        engine.dispose()
