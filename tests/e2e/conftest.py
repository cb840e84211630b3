"""One real installation for all end-to-end tests: `finery up` as a user starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.bench.house import House, house


@pytest.fixture(scope="session")
def up() -> Iterator[House]:
    """A running installation on a fresh home; its operator lets data and weights come from loopback."""
    with pytest.MonkeyPatch.context() as set_first:
        set_first.setenv("FINERY_SOURCES_ALLOW_NETWORKS", "127.0.0.0/8")
        with house("--allow-webhook-network", "127.0.0.0/8") as running:
            yield running


@pytest.fixture(scope="session")
def client(up: House) -> Iterator[OpenAI]:
    """The official client, unmodified."""
    with OpenAI(base_url=f"{up.ready['url']}/v1", api_key=up.ready["api_key"], timeout=120, max_retries=0) as client:
        yield client
