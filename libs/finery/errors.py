"""What the client raises. Programs decide by ``code``; people read the message, which says what to do.

FineryAPIError                 an answer that is an error: code, status, message, param, details
├── BadRequest            400  the request is not valid; details names each fault
├── AuthenticationFailed  401  no key, a wrong one, or a revoked one
├── PermissionDenied      403  this key's role may not do that
├── NotFound              404  no such thing in this project
├── Conflict              409  the thing's state does not allow it
├── TooLarge              413  over a stated limit
├── Unprocessable         422  it contradicts what was asked before under the same key
├── RateLimited           429  wait retry_after_s
├── NotOffered            501  this version of Finery does not do that yet
└── ServerFailed          5xx  Finery's fault; try again
ConnectionFailed               no answer at all: nobody listens there, or it took too long (a FineryAPIError, status 0)
TaskDidNotSucceed              ``wait(…, check=True)`` ended in failed or terminated; the task is on it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery_contracts.errors import ErrorBody
from finery_contracts.tasks import TaskView


class FineryAPIError(Exception):
    """An answer that is an error."""

    def __init__(self, body: ErrorBody, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"{body.message} ({body.code})")
        self.code, self.message, self.param = body.code, body.message, body.param
        self.details: list[dict[str, Any]] = body.details
        self.status, self.retry_after_s = status, retry_after_s


class BadRequest(FineryAPIError):
    """The request is not valid."""


class AuthenticationFailed(FineryAPIError):
    """No key, a wrong one, or a revoked one."""


class PermissionDenied(FineryAPIError):
    """This key's role may not do that."""


class NotFound(FineryAPIError):
    """No such thing in this project."""


class Conflict(FineryAPIError):
    """The thing's state does not allow it."""


class TooLarge(FineryAPIError):
    """Over a stated limit."""


class Unprocessable(FineryAPIError):
    """It contradicts what was asked before under the same Idempotency-Key."""


class RateLimited(FineryAPIError):
    """Too many requests."""


class NotOffered(FineryAPIError):
    """This version does not do that yet."""


class ServerFailed(FineryAPIError):
    """Finery's fault."""


class ConnectionFailed(FineryAPIError):
    """No answer at all."""


class TaskDidNotSucceed(FineryAPIError):
    """A task that was waited for ended in failed or terminated."""

    def __init__(self, task: TaskView) -> None:
        fallback = ErrorBody(code=f"task_{task.state}", message=f"task {task.id} ({task.name}) was {task.state}")
        super().__init__(task.error or fallback, status=200)
        self.task = task


_BY_STATUS: Mapping[int, type[FineryAPIError]] = {
    400: BadRequest, 401: AuthenticationFailed, 403: PermissionDenied, 404: NotFound, 409: Conflict, 413: TooLarge,
    422: Unprocessable, 429: RateLimited, 501: NotOffered,
}  # fmt: skip


def api_error(status: int, body: ErrorBody, *, retry_after_s: float | None = None) -> FineryAPIError:
    """The exception for an answer."""
    kind = _BY_STATUS.get(status, ServerFailed if status >= 500 else FineryAPIError)
    return kind(body, status=status, retry_after_s=retry_after_s)
