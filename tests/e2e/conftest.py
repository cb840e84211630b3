"""One real installation for all end-to-end tests: `finery up` as a user starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.bench.house import House, house
from tests.e2e.tiny_folders import ALLOWED


@pytest.fixture(scope="session")
def up() -> Iterator[House]:
    """A running installation on a fresh home; data and weights may come from loopback, code of tiny models may run."""
    with pytest.MonkeyPatch.context() as set_first:
        set_first.setenv("FINERY_SOURCES_ALLOW_NETWORKS", "127.0.0.0/8")
        set_first.setenv("FINERY_ALLOWED_CODE", json.dumps(ALLOWED))
        with house("--allow-webhook-network", "127.0.0.0/8") as running:
            yield running


@pytest.fixture(scope="session")
def client(up: House) -> Iterator[OpenAI]:
    """The official client, unmodified."""
    with OpenAI(base_url=f"{up.ready['url']}/v1", api_key=up.ready["api_key"], timeout=120, max_retries=0) as client:
        yield client
