"""Where data comes from: one shape for each kind of place, as people name it and as it is recorded.

It holds no secret: what opens a place is registered as a connection and reaches an engine beside the source.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from finery_contracts.model import Record, Request

MAX_URL_CHARACTERS = 2048
MAX_QUERY_CHARACTERS = 20_000
MAX_PATTERN_CHARACTERS = 1_000
MAX_FIELDS = 32
MASK = "?***"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_URL = Field(min_length=1, max_length=MAX_URL_CHARACTERS)
_CONNECTION = Field(min_length=1, max_length=64, description="name or id of a registered connection")


class UploadSource(Request):
    """A finished upload."""

    kind: Literal["upload"] = "upload"
    upload: str = Field(min_length=1, max_length=64, description="its id")


class FileSource(Request):
    """A file, or every file below a folder, under a root that the operator allows."""

    kind: Literal["file"] = "file"
    url: str = Field(
        description="file:///absolute/path", min_length=1, max_length=MAX_URL_CHARACTERS,
        examples=["file:///data/train.jsonl"],
    )  # fmt: skip

    @field_validator("url")
    @classmethod
    def _is_a_path(cls, url: str) -> str:
        return checked_path(url)


class S3Source(Request):
    """An object, or every object below a prefix."""

    kind: Literal["s3"] = "s3"
    url: str = Field(description="s3://bucket/key-or-prefix", min_length=1, max_length=MAX_URL_CHARACTERS)
    connection: str | None = Field(
        default=None, min_length=1, max_length=64, description="default: the project's only connection of this kind"
    )

    @field_validator("url")
    @classmethod
    def _names_a_bucket(cls, url: str) -> str:
        bucket, key = bucket_and_key(url)
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("an object-store URL reads s3://bucket/key, the bucket of 2 to 63 letters, digits, . _ -")
        if any(part in (".", "..") for part in key.split("/")):
            raise ValueError("a key has no part that is . or ..")
        return url

    @property
    def place(self) -> tuple[str, str]:
        """Bucket and key or prefix."""
        return bucket_and_key(self.url)


class HttpSource(Request):
    """What a URL answers; it must be reachable from the internet, or in a network that the operator allows."""

    kind: Literal["http"] = "http"
    url: str = _URL

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError("give an http or https URL")
        return url


class SqlSource(Request):
    """The rows of one query: its columns' names say which format they are."""

    kind: Literal["sql"] = "sql"
    connection: str = _CONNECTION
    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="one SELECT; it is never written to")


class LogSource(Request):
    """Lines of log files, each one a record: JSON objects, or what a pattern's named groups take out of a line."""

    kind: Literal["logs"] = "logs"
    url: str = Field(description="file:///var/log/app/*.log: a path under an allowed root, its last part with * and ?")
    pattern: str | None = Field(
        default=None, min_length=1, max_length=MAX_PATTERN_CHARACTERS,
        description="regular expression with named groups; without one every line is a JSON object",
    )  # fmt: skip
    fields: dict[str, str] = Field(
        default_factory=dict, max_length=MAX_FIELDS,
        description="column → where it stands in the JSON object, such as request.prompt",
    )  # fmt: skip

    @field_validator("url")
    @classmethod
    def _is_a_path(cls, url: str) -> str:
        return checked_path(url)

    @model_validator(mode="after")
    def _takes_something(self) -> LogSource:
        wrong = sorted(name for name in self.fields if not _COLUMN.fullmatch(name))
        if wrong:
            raise ValueError(f"fields: {', '.join(wrong)} is no name of a column")
        if self.pattern is None:
            return self
        if self.fields:
            raise ValueError("fields are for JSON lines; a pattern names its columns itself: (?P<human>…)")
        try:
            groups = re.compile(self.pattern).groupindex
        except (re.error, OverflowError, RecursionError) as fault:
            raise ValueError(f"the pattern is no regular expression: {fault}") from fault
        if not groups:
            raise ValueError("the pattern has no named group, such as (?P<human>…)")
        return self


def _of_text(said: Any) -> Any:
    """A plain URL stands for the source that its scheme means."""
    if not isinstance(said, str):
        return said
    kinds = {"s3": "s3", "file": "file", "http": "http", "https": "http"}
    return {"kind": kinds.get(said.partition("://")[0].lower(), "file"), "url": said}


Fetched = Annotated[
    FileSource | S3Source | HttpSource | SqlSource | LogSource, Field(discriminator="kind"), BeforeValidator(_of_text)
]
"""What an engine has to fetch before it can read it; a text is a URL."""
Source = Annotated[
    UploadSource | FileSource | S3Source | HttpSource | SqlSource | LogSource,
    Field(discriminator="kind"),
    BeforeValidator(_of_text),
]
"""Any of them."""
SOURCE: TypeAdapter[Any] = TypeAdapter(Source)


class Endpoint(Record):
    """The open part of a registered connection, as an engine needs it."""

    kind: Literal["s3", "postgres", "sqlite"]
    url: str | None = Field(default=None, description="of an object store")
    region: str = "us-east-1"
    host: str | None = None
    port: int = 5432
    database: str | None = Field(default=None, description="name, or the path of an SQLite file")
    user: str | None = None
    tls: str = "prefer"


class Limits(Record):
    """How far a fetch may go."""

    max_bytes: int = 100 * 2**30
    max_files: int = 10_000
    max_rows: int = 50_000_000
    timeout_s: float = 3600.0
    stall_s: float = Field(default=30.0, description="a sender that is silent for so long has gone")
    statement_s: float = Field(default=600.0, description="for a query")
    roots: list[str] = Field(default_factory=list, description="folders under which files may be read")
    allow_networks: list[str] = Field(default_factory=list, description="internal networks that may be connected to")


class Origin(Record):
    """What an engine has to fetch first. ``secret`` and ``denied`` are filled in when a worker claims the task."""

    source: Fetched
    endpoint: Endpoint | None = None
    limits: Limits = Limits()
    secret: dict[str, str] | None = Field(default=None, repr=False, description="what opens the endpoint")
    denied: str | None = Field(default=None, description="why it may not be fetched any more")


class FetchedBytes(Record):
    """What came: for several files the hash is that of their hashes and names, in the order of the names."""

    files: int
    size_bytes: int
    sha256: str
    skipped: int = Field(default=0, description="lines of logs that were no record")


class PlaceView(Record):
    """A source as it is recorded beside what was made of it."""

    kind: Literal["file", "s3", "http", "sql", "logs"]
    url: str | None = None
    connection: str | None = None
    query: str | None = None
    pattern: str | None = None
    fields: dict[str, str] = Field(default_factory=dict)


def shown(source: Any) -> Any:
    """The source as anybody may see it: a URL's query often holds a signature."""
    if isinstance(source, HttpSource):
        plain, mark, _ = source.url.partition("#")[0].partition("?")
        return source.model_copy(update={"url": plain + (MASK if mark else "")})
    return source


def place_of(source: Any) -> PlaceView:
    """The source as it is recorded."""
    return PlaceView.model_validate(shown(source).model_dump())


def name_of(source: Any) -> str:
    """The name that its data gets when nobody gives one."""
    if isinstance(source, SqlSource):
        return source.connection
    path = urlsplit(cast("str", getattr(source, "url", ""))).path
    return path.rstrip("/").rpartition("/")[2][:255] or urlsplit(getattr(source, "url", "")).netloc or "data"


def bucket_and_key(url: str) -> tuple[str, str]:
    """``s3://bucket/key`` → the two."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return (bucket, key) if url.startswith("s3://") else ("", "")


def checked_path(url: str) -> str:
    """The URL of an absolute path on the server.

    Raises:
        ValueError: it is none, or it climbs.
    """
    path = url.removeprefix("file://")
    if not url.startswith("file:///"):
        raise ValueError("give file:// with an absolute path, such as file:///data/train.jsonl")
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("the path has no part that is . or ..")
    return url
