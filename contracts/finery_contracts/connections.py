"""Registered object stores and databases of a project: how to reach them, and never what opens them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, TypeAdapter

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime
from finery_contracts.sources import Endpoint

Name = Annotated[str, Field(min_length=1, max_length=64)]


class S3Request(Request):
    """Register an S3-compatible object store."""

    kind: Literal["s3"]
    name: Name
    endpoint: str | None = Field(default=None, max_length=2048, description="default: Amazon's of the region")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,40}$")
    access_key: str = Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")
    secret_key: SecretStr = Field(min_length=1, max_length=1024)
    session_token: SecretStr | None = Field(default=None, min_length=1, max_length=8192)


class PostgresRequest(Request):
    """Register a Postgres database; a role that may only read is wise."""

    kind: Literal["postgres"]
    name: Name
    dsn: SecretStr = Field(
        min_length=1, max_length=2048, description="postgresql://user:password@host:port/database?sslmode=require"
    )


class SqliteRequest(Request):
    """Register an SQLite file under an allowed root."""

    kind: Literal["sqlite"]
    name: Name
    path: str = Field(min_length=1, max_length=2048, description="file:///absolute/path of the file")


ConnectionRequest = Annotated[S3Request | PostgresRequest | SqliteRequest, Field(discriminator="kind")]
CONNECTION_REQUEST: TypeAdapter[Any] = TypeAdapter(ConnectionRequest)


class ConnectionView(Record):
    """A connection as it is shown: without what opens it."""

    id: str
    project: str
    name: str
    endpoint: Endpoint
    hint: str = Field(default="", description="the first characters of the key, or the user")
    version: int
    created_by: str
    created_at: UtcTime


class ConnectionFact(Event):
    """A fact about a connection; it never carries a credential."""

    NOUN = "connection"
    SAID_BY = "studio"
    data: ConnectionView


class ConnectionRegistered(ConnectionFact):
    """An object store or a database can be named as a source."""

    FACT = "registered"


class ConnectionDeleted(ConnectionFact):
    """It cannot be named any more; its credentials are gone."""

    FACT = "deleted"
