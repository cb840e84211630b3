"""What the gateway decides about a call, as pure functions: may it pass, what is sent on, what its answer cost.

It refuses clocks and I/O: the moment is handed in. What a model can be asked is for the engine to judge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json, to_json

from finery_contracts.deployments import DeploymentState, Route
from finery_contracts.errors import FineryError, InvalidRequest, NotFound, RateLimited, Unauthorized, Unavailable

TUNED = "ft:"
MAX_EVENT_BYTES = 1 << 20
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_TEXT = re.compile(rb'"(?:content|text)":\s*"[^"]')
_RESTING = frozenset({DeploymentState.STOPPED, DeploymentState.STOPPING, DeploymentState.FAILED})


def bearer(header: str | None) -> str:
    """The key in an Authorization header.

    Raises:
        Unauthorized: ``missing_api_key``, or ``invalid_api_key`` for another scheme.
    """
    if not header:
        raise Unauthorized(
            "there is no API key in this request; send the header Authorization: Bearer <key>", code="missing_api_key"
        )
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized
    return key.strip()


@dataclass(frozen=True)
class Ask:
    """A completion request as far as the gateway reads it."""

    fields: Mapping[str, object]
    model: str
    stream: bool
    wants_usage: bool


def read_ask(body: bytes) -> Ask:
    """The cheap checks; the engine makes the others.

    Raises:
        InvalidRequest: ``invalid_json``, ``invalid_request`` or ``missing_required_parameter``.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as fault:
        raise InvalidRequest(f"the body is not JSON: {fault}; send one JSON object", code="invalid_json") from fault
    if not isinstance(fields, dict):
        raise InvalidRequest("the body is not a JSON object; send one with model and messages (or prompt)")
    known = cast("dict[str, object]", fields)
    model = known.get("model")
    if model is None:
        raise InvalidRequest("model is missing; it is required", code="missing_required_parameter", param="model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model must be a text: a deployment's name or an ft: name", param="model")
    options = known.get("stream_options")
    include = cast("dict[str, object]", options).get("include_usage") if isinstance(options, dict) else None
    return Ask(known, model, stream=known.get("stream") is True, wants_usage=include is True)


def forwarded(ask: Ask, body: bytes, route: Route) -> bytes:
    """The body for the instance: the very bytes, unless something must be added to them."""
    changes: dict[str, object] = {}
    if ask.model != route.names[-1]:
        changes["model"] = route.names[-1]
    open_ended = ask.fields.get("max_tokens") is None and ask.fields.get("max_completion_tokens") is None
    if open_ended and route.default_max_tokens is not None:
        changes["max_tokens"] = route.default_max_tokens
    if ask.stream and not ask.wants_usage:
        options = ask.fields.get("stream_options")
        if options is None:
            changes["stream_options"] = {"include_usage": True}
        elif isinstance(options, dict):
            changes["stream_options"] = {**cast("dict[str, object]", options), "include_usage": True}
    return to_json({**ask.fields, **changes}) if changes else body


def index(routes: Iterable[Route]) -> dict[tuple[str, str], Route]:
    """Routes by project and name; one that runs before one that does not, the newer before the older."""
    found: dict[tuple[str, str], Route] = {}
    for route in sorted(routes, key=lambda route: (route.state is DeploymentState.RUNNING, route.deployment)):
        found |= {(route.project, name): route for name in route.names}
    return found


def refusal(route: Route | None, name: str) -> FineryError:
    """Why no instance can be called under this name now (SPEC DE4)."""
    shown = name[:200]
    if route is None:
        return NotFound(
            f"there is no model {shown!r} in this project; say a deployment's name or an ft: name, see GET /v1/models",
            code="model_not_found",
            param="model",
        )
    if route.state in _RESTING:
        return NotFound(
            f"deployment {shown!r} is {route.state}; start it with POST /api/v1/deployments/{route.deployment}/start",
            code="deployment_not_running",
            param="model",
        )
    return Unavailable(
        f"deployment {shown!r} is {route.state}; try again in a few seconds",
        code="deployment_starting",
        retry_after_s=2,
    )


@dataclass
class TokenBucket:
    """So many calls a second, with a burst of one second's worth, at least one."""

    rate: float
    filled: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> TokenBucket:
        """A fresh one."""
        return cls(rate, max(1.0, rate), now)

    def take(self, now: float) -> float:
        """Take one token; returns 0, or the seconds until there is one."""
        self.filled = min(max(1.0, self.rate), self.filled + (now - self.at) * self.rate)
        self.at = now
        if self.filled >= 1:
            self.filled -= 1
            return 0.0
        return (1 - self.filled) / self.rate


def too_fast(route: Route, wait_s: float) -> RateLimited:
    """The answer to a call above the deployment's rate."""
    return RateLimited(
        f"{route.names[-1]} answers {route.qps:g} requests a second; wait {math.ceil(wait_s)} s and try again",
        retry_after_s=wait_s,
    )


@dataclass(frozen=True)
class Tokens:
    """What an answer cost."""

    prompt: int = 0
    completion: int = 0


def tokens_of(answer: object) -> Tokens | None:
    """The ``usage`` of an answer or chunk in OpenAI's shape; None when there is none."""
    usage = cast("dict[str, object]", answer).get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    counted = cast("dict[str, object]", usage)
    prompt, completion = counted.get("prompt_tokens"), counted.get("completion_tokens")
    return Tokens(prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0)


class AnswerStream:
    """Server-sent events on their way through: the very bytes, save the usage chunk where nobody asked for it.

    The end marker is held back until the call is on record. A stream that was cut off has no usage; then the chunks
    that carried text are counted, each at least one token.
    """

    def __init__(self, *, strip_usage: bool) -> None:
        self._strip = strip_usage
        self._pending = b""
        self._held = b""
        self._usage: Tokens | None = None
        self._chunks = 0

    @property
    def tokens(self) -> Tokens:
        """What is known by now."""
        return self._usage or Tokens(completion=self._chunks)

    @property
    def whole(self) -> bool:
        """True once the end marker came."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What may go out now."""
        self._pending += data
        out, start = b"", 0
        for end in _EVENT_END.finditer(self._pending):
            out += self._judge(self._pending[start : end.end()])
            start = end.end()
        self._pending = self._pending[start:]
        if len(self._pending) > MAX_EVENT_BYTES:  # no events at all: nothing to look for
            out, self._pending = out + self._pending, b""
        return out

    def rest(self) -> bytes:
        """What is left when the call is on record."""
        rest, self._pending, self._held = self._pending + self._held, b"", b""
        return rest

    def _judge(self, event: bytes) -> bytes:
        if event.startswith(b"data: [DONE]") or self._held:
            self._held += event
            return b""
        if b'"usage"' in event:
            chunk = _chunk_of(event)
            self._usage = tokens_of(chunk) or self._usage
            if self._strip and isinstance(chunk, dict) and chunk.get("choices") == [] and tokens_of(chunk) is not None:
                return b""
        if _TEXT.search(event):
            self._chunks += 1
        return event


def _chunk_of(event: bytes) -> dict[str, object] | None:
    try:
        chunk = from_json(event.removeprefix(b"data:").strip())
    except ValueError:
        return None
    return cast("dict[str, object]", chunk) if isinstance(chunk, dict) else None
