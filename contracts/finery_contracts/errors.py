"""Every error that Finery answers with. HTTP status, redelivery and dead letter are derived from here in one place.

FineryError
├── InvalidRequest        400  the caller's mistake, known at submit
│   ├── DataInvalid       400  a dataset, record or file is wrong
│   └── WeightsInvalid    400  a model folder is wrong
├── Unauthorized          401  no key, or a wrong one
├── Forbidden             403  a right or a grant is missing
├── NotFound              404  no such thing in this project
├── Conflict              409  the thing's state does not allow it
├── PreconditionFailed    412  another version of a protocol than Finery speaks
├── TooLarge              413  over a stated limit
├── MediaUnsupported      415  a body of another type than the route takes
├── Unprocessable         422  well-formed, but it contradicts what was said before
├── Locked                423  somebody else is writing to it (retryable)
├── RateLimited           429  slower, see Retry-After
├── ChecksumMismatch      460  what arrived is not what was sent; send it again
├── NotOffered            501  a part of Finery that this version does not offer yet
├── Unavailable           503  try again later (retryable)
├── StorageFull           507  no room on the disk: an operator makes some
└── EngineFailed          500  an engine broke (retryable)
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from finery_contracts.model import Record

BRIEF_DETAILS = 20
"""So many stand in a list and beside each attempt; where the error itself is shown, all of them do."""


class ErrorBody(Record):
    """An error as data: in answers, events, reports and result files."""

    code: str = Field(description="stable, snake_case; programs decide by it")
    message: str = Field(description="what happened, to what, and what to do")
    param: str | None = Field(default=None, description="the field, file or line that is meant")
    details: list[dict[str, Any]] = Field(
        default_factory=list[dict[str, Any]], description="one entry for each fault found"
    )

    def brief(self) -> ErrorBody:
        """The same with its first details alone, for where many errors stand side by side."""
        return self.model_copy(update={"details": self.details[:BRIEF_DETAILS]})


class FineryError(Exception):
    """Something went wrong inside Finery; the operator finds more in the log."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        details: list[dict[str, Any]] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        super().__init__(self.message)
        self.error_code = code or type(self).code
        self.param = param
        self.details = details or []
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> ErrorBody:
        """This error as data."""
        return ErrorBody(code=self.error_code, message=self.message, param=self.param, details=self.details)

    def as_openai(self) -> dict[str, Any]:
        """This error in OpenAI's shape; ``details`` is our addition and left out when there are none."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.error_code,
        }
        if self.details:
            error["details"] = self.details
        return {"error": error}


class InvalidRequest(FineryError):
    """The request is not valid; correct the named fields and send it again."""

    status, kind, code = 400, "invalid_request_error", "invalid_request"


class DataInvalid(InvalidRequest):
    """The data is not valid; the report names each bad record."""

    code = "invalid_data"


class WeightsInvalid(InvalidRequest):
    """The model's files are not valid; the findings name each fault."""

    code = "invalid_weights"


class Unauthorized(FineryError):
    """The API key is missing or wrong; send `Authorization: Bearer <key>` with a key of this installation."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(FineryError):
    """This key may not do that; ask an owner of the project for the right."""

    status, kind, code = 403, "permission_error", "forbidden"


class NotFound(FineryError):
    """There is no such thing in this project; list to see what there is."""

    status, kind, code = 404, "invalid_request_error", "not_found"


class Conflict(FineryError):
    """Its present state does not allow that."""

    status, kind, code = 409, "invalid_request_error", "conflict"


class PreconditionFailed(FineryError):
    """This version of the protocol is not spoken here."""

    status, kind, code = 412, "invalid_request_error", "version_unsupported"


class TooLarge(FineryError):
    """It is larger than the limit."""

    status, kind, code = 413, "invalid_request_error", "too_large"


class MediaUnsupported(FineryError):
    """A body of this type is not taken here."""

    status, kind, code = 415, "invalid_request_error", "media_type_unsupported"


class Unprocessable(FineryError):
    """It contradicts an earlier request."""

    status, kind, code = 422, "invalid_request_error", "unprocessable"


class Locked(FineryError):
    """Somebody else is writing to it at the moment; try again when they are done."""

    status, kind, code, retryable = 423, "invalid_request_error", "locked", True


class RateLimited(FineryError):
    """Too many requests; wait as Retry-After says."""

    status, kind, code, retryable = 429, "rate_limit_error", "rate_limit_exceeded", True


class ChecksumMismatch(FineryError):
    """What arrived does not have the checksum that was sent with it; nothing of it was kept, send it again."""

    status, kind, code = 460, "invalid_request_error", "checksum_mismatch"


class NotOffered(FineryError):
    """This version of Finery does not offer that yet."""

    status, kind, code = 501, "invalid_request_error", "not_offered_yet"


class Unavailable(FineryError):
    """A part of Finery is not reachable at the moment; try again."""

    status, kind, code, retryable = 503, "server_error", "unavailable", True


class StorageFull(FineryError):
    """There is no room left on the disk of the store; an operator must free some, then try again."""

    status, kind, code = 507, "server_error", "storage_full"


class EngineFailed(FineryError):
    """The engine ended without a result; its log says more."""

    status, code, retryable = 500, "engine_failed", True


_BY_STATUS: dict[int, type[FineryError]] = {
    400: InvalidRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict,
    412: PreconditionFailed, 413: TooLarge, 415: MediaUnsupported, 422: Unprocessable, 423: Locked, 429: RateLimited,
    460: ChecksumMismatch, 501: NotOffered, 503: Unavailable,
    507: StorageFull,
}  # fmt: skip


def error_of(status: int, body: ErrorBody, *, retry_after_s: float | None = None) -> FineryError:
    """The error another service answered with, as an exception again."""
    kind = _BY_STATUS.get(status, FineryError)
    return kind(body.message, code=body.code, param=body.param, details=body.details, retry_after_s=retry_after_s)
