"""CloudEvents 1.0 as they come from outside: structured, batched, or binary, into one shape.

Sources: the HTTP binding, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
(3.1.3.2 for the encoding of headers), and the JSON format. It refuses with the name of the attribute that is wrong.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast
from urllib.parse import unquote

from finery_contracts.errors import InvalidRequest, TooLarge
from finery_contracts.inbound import InboundEvent

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
PREFIX = "ce-"
MAX_EVENT_BYTES = 256 * 1024
MAX_BATCH = 100
MAX_BATCH_BYTES = 4 * 2**20
LIMITS = {"id": 255, "source": 1024, "type": 255}
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_JSON = re.compile(r"(application|text)/(json|[a-z0-9.+_-]+\+json)")


def headers_of(said: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A request's headers under lower-case names.

    Raises:
        InvalidRequest: one that says what the event is comes twice: nobody could tell which is meant.
    """
    found = dict[str, str]()
    for name, value in ((name.lower(), value) for name, value in said):
        if name in found and (name.startswith(PREFIX) or name == "content-type"):
            raise InvalidRequest(f"the header {name} comes twice; send it once", code="header_repeated", param=name)
        found[name] = value
    return found


def read(headers: Mapping[str, str], body: bytes) -> list[Any]:
    """The events of a message, each as JSON or already refused; names of headers are lower-case.

    Raises:
        InvalidRequest, TooLarge: the message as a whole cannot be read.
    """
    kind = _media_type(headers.get("content-type", ""))
    if kind == BATCH:
        return _batch(body)
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"an event has at most {MAX_EVENT_BYTES:,} bytes, this one has {len(body):,}", code="too_large")
    if kind == STRUCTURED:
        return [_parsed(body)]
    if any(name.startswith(PREFIX) for name in headers):
        return [_binary(headers, kind, body)]
    raise InvalidRequest(
        f"this is no CloudEvent: send {STRUCTURED}, {BATCH}, or the headers ce-specversion, ce-id, ce-source, ce-type",
        code="not_a_cloudevent", param="content-type",
    )  # fmt: skip


def event_of(said: Any) -> InboundEvent:
    """The event, when its attributes are what they must be.

    Raises:
        InvalidRequest: one is missing or wrong; ``param`` names it.
    """
    if not isinstance(said, dict):
        raise InvalidRequest("an event is a JSON object", code="not_a_cloudevent")
    found = cast("dict[str, Any]", said)
    if found.get("specversion") != "1.0":
        _wrong("specversion", found, "must be 1.0", code="specversion_unsupported")
    for name, limit in LIMITS.items():
        value = found.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= limit or _NO_TEXT.search(value):
            _wrong(name, found, f"must be a text of 1 to {limit} characters, none of them a control character")
    _check_time(found)
    parent = found.get("traceparent")
    return InboundEvent(
        specversion="1.0", id=found["id"], source=found["source"], type=found["type"], data=_data(found),
        traceparent=parent if isinstance(parent, str) else None,
    )  # fmt: skip


def named(said: Any) -> dict[str, str]:
    """What can be told of an event that is none: for its refusal."""
    found = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    return {name: _NO_TEXT.sub("?", str(found.get(name) or ""))[:limit] for name, limit in LIMITS.items()}


def _batch(body: bytes) -> list[Any]:
    if len(body) > MAX_BATCH_BYTES:
        raise TooLarge(f"a batch has at most {MAX_BATCH_BYTES:,} bytes, this one has {len(body):,}", code="too_large")
    events = _parsed(body)
    if not isinstance(events, list):
        raise InvalidRequest("a batch is a JSON array of events", code="not_a_cloudevent")
    listed = cast("list[Any]", events)
    if len(listed) > MAX_BATCH:
        raise TooLarge(f"a batch has at most {MAX_BATCH} events, this one has {len(listed):,}", code="too_large")
    return listed


def _binary(headers: Mapping[str, str], kind: str, body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {
        name.removeprefix(PREFIX): _decoded(name, value) for name, value in headers.items() if name.startswith(PREFIX)
    }
    if kind:
        found["datacontenttype"] = kind
    if body:
        _check_data_is_json(found)
        found["data"] = _parsed(body)
    return found


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as fault:
        raise InvalidRequest(f"this is not JSON: {fault}", code="not_json") from fault


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _decoded(name: str, value: str) -> str:
    """A header's value: quotes and their escapes go first, then every %XX becomes the byte of UTF-8 it stands for."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as fault:
        raise InvalidRequest(
            f"{name} is not UTF-8 in percent-encoding", code="attribute_invalid", param=name.removeprefix(PREFIX)
        ) from fault


def _data(found: dict[str, Any]) -> dict[str, Any]:
    data = found.get("data")
    if "data_base64" in found:
        if data is not None:
            raise InvalidRequest("an event has data or data_base64, not both", code="attribute_invalid", param="data")
        _check_data_is_json(found)
        data = _from_base64(found["data_base64"])
    elif data is not None:
        _check_data_is_json(found)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidRequest("data must be a JSON object", code="data_invalid", param="data")
    return cast("dict[str, Any]", data)


def _from_base64(text: Any) -> Any:
    try:
        body = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as fault:
        raise InvalidRequest("data_base64 is not base64", code="data_invalid", param="data_base64") from fault
    return _parsed(body)


def _check_data_is_json(found: dict[str, Any]) -> None:
    kind = found.get("datacontenttype")
    if kind is not None and not (isinstance(kind, str) and _JSON.fullmatch(_media_type(kind))):
        raise InvalidRequest(
            f"data of type {str(kind)[:80]} is not understood; send application/json",
            code="datacontenttype_unsupported", param="datacontenttype",
        )  # fmt: skip


def _check_time(found: dict[str, Any]) -> None:
    when = found.get("time")
    if when is None:
        return
    try:
        aware = isinstance(when, str) and datetime.fromisoformat(when).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        _wrong("time", found, "must be a time as RFC 3339 has it")


def _wrong(name: str, found: dict[str, Any], rule: str, *, code: str = "attribute_invalid") -> None:
    if name not in found:
        raise InvalidRequest(f"the event has no {name}: it {rule}", code="attribute_missing", param=name)
    raise InvalidRequest(f"the event's {name} {rule}", code=code, param=name)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


__all__ = ["BATCH", "MAX_BATCH_BYTES", "STRUCTURED", "event_of", "named", "read"]
