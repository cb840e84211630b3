"""What a registered connection is made of: its open part and its secret part. It refuses every odd spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from finery_contracts.connections import PostgresRequest, S3Request
from finery_contracts.errors import InvalidRequest
from finery_contracts.sources import Endpoint

_MODES = ("disable", "prefer", "require", "verify-full")
_QUERY = re.compile(r"(sslmode=([a-z-]+))?")


@dataclass(frozen=True)
class Parts:
    """A connection, taken apart; ``address`` is the URL whose host and port the guard judges."""

    endpoint: Endpoint
    secret: dict[str, str]
    hint: str
    address: str | None = None

    def __repr__(self) -> str:
        return f"Parts({self.endpoint!r}, …)"


def of_object_store(asked: S3Request) -> Parts:
    """Endpoint and keys of an object store."""
    url = (asked.endpoint or f"https://s3.{asked.region}.amazonaws.com").rstrip("/")
    if urlsplit(url).path or "?" in url or "#" in url:
        raise _invalid("an endpoint is scheme, host and port, without a path", "endpoint")
    secret = {"access_key": asked.access_key, "secret_key": asked.secret_key.get_secret_value()}
    if asked.session_token is not None:
        secret["session_token"] = asked.session_token.get_secret_value()
    endpoint = Endpoint(kind="s3", url=url, region=asked.region)
    return Parts(endpoint, secret, f"{asked.access_key[:4]}…", url)


def of_postgres(asked: PostgresRequest) -> Parts:
    """The one plain form of a DSN: nothing in it names a file, a service or another option.

    Raises:
        InvalidRequest: ``dsn_invalid``; the message does not repeat it.
    """
    try:
        split = urlsplit(asked.dsn.get_secret_value())
        host, port = split.hostname, split.port or 5432
    except ValueError as fault:
        raise _wrong_dsn("it cannot be parsed") from fault
    query = _QUERY.fullmatch(split.query)
    name, user = unquote(split.path.removeprefix("/")), unquote(split.username or "")
    if split.scheme not in ("postgresql", "postgres") or not host or not name or not user:
        raise _wrong_dsn("it names no host, user or database")
    if query is None or split.fragment or (query[2] or "prefer") not in _MODES:
        raise _wrong_dsn(f"beside sslmode ({', '.join(_MODES)}) it takes no parameter")
    if any("\0" in part for part in (name, user)) or "/" in name:
        raise _wrong_dsn("the names in it cannot be")
    shown = f"[{host}]" if ":" in host else host
    endpoint = Endpoint(kind="postgres", host=host, port=port, database=name, user=user, tls=query[2] or "prefer")
    return Parts(endpoint, {"password": unquote(split.password or "")}, user, f"https://{shown}:{port}")


def _wrong_dsn(reason: str) -> InvalidRequest:
    return _invalid(f"the DSN reads postgresql://user:password@host:port/database, and {reason}", "dsn")


def _invalid(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(reason, code=f"{param}_invalid", param=param)
