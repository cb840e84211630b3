"""One HTTP connection to an installation: the place where an answer becomes a typed view, or a FineryAPIError.

Every POST carries an Idempotency-Key, so that it may be repeated when the connection broke or Finery said *later*: it
is carried out once however often it is sent. It refuses to repeat what changes things without a key.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from finery.errors import ConnectionFailed, FineryAPIError, ServerFailed, api_error
from finery_contracts.errors import ErrorBody

V = TypeVar("V", bound=BaseModel)
MAX_ERROR_CHARACTERS = 300
KEY_HEADER = "Idempotency-Key"
WAITS_S = (0.2, 0.5, 1.0, 2.0)
"""Before each further try, unless Retry-After says otherwise."""
LONGEST_WAIT_S = 30.0
REPEATED = {"GET", "POST"}


@dataclass(frozen=True)
class Page(Generic[V]):
    """Some of a list; ``next`` is the ``after`` of the following page."""

    data: list[V]
    has_more: bool = False
    next: str | None = None

    def __iter__(self) -> Iterator[V]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Transport:
    """Sends requests with the key, reads answers."""

    def __init__(
        self, url: str, api_key: str, *, transport: httpx.BaseTransport | None = None, timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers={"Authorization": f"Bearer {api_key}"}, timeout=timeout_s,
            transport=transport,
        )  # fmt: skip

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def send(self, method: str, path: str, **said: Any) -> httpx.Response:
        """One request; ``said`` as httpx takes it. What is safe to repeat is, a few times.

        Raises:
            FineryAPIError: the answer is an error, or there was none.
        """
        if method == "POST":
            said["headers"] = {KEY_HEADER: str(uuid.uuid4()), **(said.get("headers") or {})}
        for wait_s in WAITS_S if method in REPEATED else ():
            try:
                return self._send(method, path, said)
            except FineryAPIError as fault:
                if not _may_come_again(fault):
                    raise
                self._sleep(min(LONGEST_WAIT_S, fault.retry_after_s if fault.retry_after_s is not None else wait_s))
                _rewind(said)
        return self._send(method, path, said)

    def _send(self, method: str, path: str, said: dict[str, Any]) -> httpx.Response:
        with self._translated():
            answer = self._http.request(method, path, **said)
        if answer.is_error:
            raise _error_of(answer)
        return answer

    def rest(self, fault: FineryAPIError, failures: int) -> None:
        """Wait before the next try: as Retry-After says, or a little longer each time."""
        self._sleep(min(LONGEST_WAIT_S, fault.retry_after_s if fault.retry_after_s is not None else 0.2 * 2**failures))

    def view(self, kind: type[V], method: str, path: str, **said: Any) -> V:
        """One request whose answer is a view."""
        answer = self.send(method, path, **said)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as fault:
            raise _not_ours(answer) from fault

    def page(self, kind: type[V], path: str, /, **asked: Any) -> Page[V]:
        """One page of a list; what was asked with None is left out."""
        answer = self.send("GET", path, params={k: v for k, v in asked.items() if v is not None})
        try:
            body = answer.json()
            data = [kind.model_validate(item) for item in body["data"]]
            following = body.get("next")
        except (ValueError, KeyError, TypeError) as fault:
            raise _not_ours(answer) from fault
        return Page(data, bool(body.get("has_more")), None if following is None else str(following))

    @contextmanager
    def stream(self, method: str, path: str, **said: Any) -> Generator[httpx.Response]:
        """An answer that comes bit by bit; silence of any length is no error."""
        said.setdefault("timeout", httpx.Timeout(10, read=None))
        with self._translated(), self._http.stream(method, path, **said) as answer:
            if answer.is_error:
                answer.read()
                raise _error_of(answer)
            yield answer

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except httpx.TimeoutException as fault:
            raise _no_answer(f"{self._http.base_url} did not answer in time; try again", "timeout") from fault
        except httpx.InvalidURL as fault:
            raise _no_answer(f"{self._http.base_url} is not a URL: {fault}", "invalid_url") from fault
        except httpx.UnsupportedProtocol as fault:
            raise _no_answer(f"{self._http.base_url} is not an http or https URL", "invalid_url") from fault
        except httpx.TransportError as fault:
            message = f"no Finery answers at {self._http.base_url} ({fault}); start one with: finery up"
            raise _no_answer(message, "connection_failed") from fault


def every(page: Callable[[str | None], Page[V]]) -> Iterator[V]:
    """All items of a list, page by page."""
    after: str | None = None
    while True:
        found = page(after)
        yield from found
        if not found.has_more or found.next is None:
            return
        after = found.next


def _may_come_again(fault: FineryAPIError) -> bool:
    """The connection broke, Finery is away or busy for a moment, or the same request is being carried out already."""
    if isinstance(fault, ConnectionFailed):
        return fault.code == "connection_failed"
    return fault.status == 503 or fault.code == "request_in_progress"


def _rewind(said: Mapping[str, Any]) -> None:
    files: Mapping[str, tuple[str, BinaryIO]] = said.get("files") or {}
    for _, file in files.values():
        file.seek(0)


def _no_answer(message: str, code: str) -> ConnectionFailed:
    return ConnectionFailed(ErrorBody(code=code, message=message), status=0)


def _error_of(answer: httpx.Response) -> FineryAPIError:
    try:
        body = ErrorBody.model_validate(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = " ".join(answer.text.split())[:MAX_ERROR_CHARACTERS]
        message = f"status {answer.status_code} without an error of Finery: {text or answer.reason_phrase}"
        body = ErrorBody(code="unexpected_answer", message=message)
    wait = answer.headers.get("retry-after", "")
    retry_after_s = float(wait) if wait.replace(".", "", 1).isdigit() else None
    return api_error(answer.status_code, body, retry_after_s=retry_after_s)


def _not_ours(answer: httpx.Response) -> ServerFailed:
    message = (
        f"{answer.request.method} {answer.request.url.path} answered something else than this client expects; "
        "is the URL that of a Finery of this version?"
    )
    return ServerFailed(ErrorBody(code="unexpected_answer", message=message), status=answer.status_code)
