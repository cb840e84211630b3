"""Fixtures of the billing meter's tests."""

from collections.abc import Iterator

import pytest
from billing_rig import Rig

from finery_billing_meter.ledger.store import BILLING_METADATA
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.testing import VirtualClock


@pytest.fixture
def rig(database_url: str) -> Iterator[Rig]:
    clock = VirtualClock()
    database = Database(database_url, BILLING_METADATA, DELIVERY_METADATA, clock=clock)
    database.open()
    yield Rig(database, clock=clock)
    database.close()
