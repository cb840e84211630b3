"""Grants and connections: what Finery may read on somebody's behalf, and where that lies."""

from __future__ import annotations

from typing import Any, Literal

from finery.transport import Page, Transport
from finery_contracts.connections import ConnectionView
from finery_contracts.grants import GrantView

GRANTS, CONNECTIONS = "/api/v1/grants", "/api/v1/connections"
Kind = Literal["user", "federated_user", "group", "everyone"]


class Grants:
    """``client.grants``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[GrantView]:
        """Those that hold, oldest first."""
        return self._transport.page(GrantView, GRANTS)

    def get(self, grant: str) -> GrantView:
        """One of them."""
        return self._transport.view(GrantView, "GET", f"{GRANTS}/{grant}")

    def give(
        self, action: str, resource: str, *, target: Kind = "everyone", name: str | None = None,
        days: int | None = None, description: str = "",
    ) -> GrantView:  # fmt: skip
        """Allow ``action`` (read, write, publish, call) with a place and all below it, for ever or so many ``days``."""
        body = {
            "action": action, "resource": resource, "target": {"kind": target, "name": name}, "days": days,
            "description": description,
        }  # fmt: skip
        return self._transport.view(GrantView, "POST", GRANTS, json=body)

    def narrow(
        self, grant: str, *, resource: str | None = None, target: Kind | None = None, name: str | None = None,
        days: int | None = None,
    ) -> GrantView:  # fmt: skip
        """Let it allow less; what is left out stays."""
        asked: dict[str, Any] = {"resource": resource, "days": days}
        asked |= {"target": {"kind": target, "name": name}} if target is not None else {}
        said = {key: value for key, value in asked.items() if value is not None}
        return self._transport.view(GrantView, "PATCH", f"{GRANTS}/{grant}", json=said)

    def delete(self, grant: str) -> None:
        """Take it away."""
        self._transport.send("DELETE", f"{GRANTS}/{grant}")

    def clear(self) -> int:
        """Take all of them away; how many there were."""
        return int(self._transport.send("DELETE", GRANTS, params={"confirm": "DELETE"}).json()["deleted"])


class Connections:
    """``client.connections``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[ConnectionView]:
        """Oldest first."""
        return self._transport.page(ConnectionView, CONNECTIONS)

    def get(self, connection: str) -> ConnectionView:
        """One, by id or name."""
        return self._transport.view(ConnectionView, "GET", f"{CONNECTIONS}/{connection}")

    def add_s3(
        self, name: str, *, access_key: str, secret_key: str, endpoint: str | None = None, region: str = "us-east-1",
        session_token: str | None = None,
    ) -> ConnectionView:  # fmt: skip
        """An S3-compatible object store. The keys are kept sealed and never shown again."""
        body = {
            "kind": "s3", "name": name, "endpoint": endpoint, "region": region, "access_key": access_key,
            "secret_key": secret_key, "session_token": session_token,
        }  # fmt: skip
        return self._add(body)

    def add_postgres(self, name: str, dsn: str) -> ConnectionView:
        """A Postgres database: ``postgresql://user:password@host:port/database``."""
        return self._add({"kind": "postgres", "name": name, "dsn": dsn})

    def add_sqlite(self, name: str, path: str) -> ConnectionView:
        """An SQLite file under an allowed root of the server: ``file:///absolute/path``."""
        return self._add({"kind": "sqlite", "name": name, "path": path})

    def delete(self, connection: str) -> None:
        """Forget it and what opens it. This cannot be undone."""
        self._transport.send("DELETE", f"{CONNECTIONS}/{connection}", params={"confirm": "DELETE"})

    def _add(self, body: dict[str, str | None]) -> ConnectionView:
        said = {key: value for key, value in body.items() if value is not None}
        return self._transport.view(ConnectionView, "POST", CONNECTIONS, json=said)
