"""Faults of OpenAI's client as errors of ours, so that commands and recipes tell them like any other.

The client itself stays as it is: whoever calls completions from a program uses it and its own errors.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import cast

from finery.errors import ConnectionFailed, FineryAPIError, ServerFailed, api_error
from finery_contracts.errors import ErrorBody


@contextmanager
def faults_translated() -> Generator[None]:
    """Raises FineryAPIError where OpenAI's client raises its own."""
    from openai import APIConnectionError, APIError, APIStatusError

    try:
        yield
    except APIStatusError as fault:
        raise _error_of(fault.status_code, fault.body, fault.message) from fault
    except APIConnectionError as fault:
        message = f"no Finery answers at {fault.request.url} ({fault.message}); start one with: finery up"
        raise ConnectionFailed(ErrorBody(code="connection_failed", message=message), status=0) from fault
    except APIError as fault:  # an answer that broke off midway
        raise ServerFailed(ErrorBody(code=fault.code or "answer_broken", message=fault.message), status=500) from fault


def _error_of(status: int, said: object, fallback: str) -> FineryAPIError:
    """``said``: what stood under ``error`` in the answer, when it was an error of ours."""
    told = cast("Mapping[str, object]", said if isinstance(said, Mapping) else {})
    known = {name: told[name] for name in ("code", "message", "param", "details") if told.get(name) is not None}
    return api_error(status, ErrorBody.model_validate({"code": "unexpected_answer", "message": fallback, **known}))
