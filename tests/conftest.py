"""Databases for every test that opens one: SQLite, and a Postgres that the tests start themselves.

Where Postgres cannot be started, the tests that want it fail and say what to do; none is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finery_kit.postgres_server import PostgresServer, postgres_server

OWNERS = ("studio", "deployer", "notifier", "billing_meter")
"""Services with a database of their own, as they stand in a URL."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of a run, started for the first that wants it."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database; the test runs on both kinds. ``indirect`` parametrisation chooses one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.sqlite'}"
        return
    with request.getfixturevalue("postgres").fresh() as url:
        yield url


@pytest.fixture
def service_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, named in the environment: a service that reads its settings finds it there."""
    monkeypatch.setenv("FINERY_DATABASE_URL", database_url)
    return database_url


@pytest.fixture(params=["sqlite", "postgres"])
def house_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Empty databases for a whole house, named in the environment; the test runs on both kinds."""
    if request.param == "sqlite":
        monkeypatch.delenv("FINERY_DATABASE_URL", raising=False)
        yield request.param
        return
    with request.getfixturevalue("postgres").house(OWNERS) as url:
        monkeypatch.setenv("FINERY_DATABASE_URL", url)
        yield request.param
