"""The client repeats what is safe to repeat, under one key, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from finery.errors import Conflict, ConnectionFailed, FineryAPIError, ServerFailed
from finery.transport import KEY_HEADER, WAITS_S, Transport

RETRY = {"retry-after": "1"}
BUSY = httpx.Response(409, json={"error": {"code": "request_in_progress", "message": "m"}}, headers=RETRY)
LATER = httpx.Response(503, json={"error": {"code": "unavailable", "message": "m"}}, headers={"retry-after": "7"})
TAKEN = httpx.Response(409, json={"error": {"code": "name_taken", "message": "m"}})
DONE = httpx.Response(201, json={"id": "x"})


class Server:
    """Answers in turn; the last answer stays."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.heard, self.waits = list(answers), list[httpx.Request](), list[float]()

    def client(self) -> Transport:
        return Transport("http://x", "fk-x", transport=httpx.MockTransport(self._answer), sleep=self.waits.append)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.heard.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)


def test_a_post_is_repeated_under_one_key_until_it_is_answered() -> None:
    server = Server(httpx.ConnectError("refused"), httpx.ReadError("cut"), LATER, BUSY, DONE)
    assert server.client().send("POST", "/things", json={}).status_code == 201
    keys = {request.headers[KEY_HEADER] for request in server.heard}
    assert (len(server.heard), len(keys)) == (5, 1)
    assert server.waits == [WAITS_S[0], WAITS_S[1], 7.0, 1.0]


def test_two_posts_have_two_keys_and_a_key_that_was_given_is_kept() -> None:
    server = Server(DONE)
    client = server.client()
    for said in ({}, {}, {"headers": {KEY_HEADER: "mine"}}):
        client.send("POST", "/things", **said)
    keys = [request.headers[KEY_HEADER] for request in server.heard]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_a_file_is_sent_whole_each_time() -> None:
    server = Server(LATER, DONE)
    server.client().send("POST", "/files", files={"file": ("a", io.BytesIO(b"the whole file"))})
    assert all(b"the whole file" in request.content for request in server.heard)


@pytest.mark.parametrize(
    ("method", "answer", "fault", "times"),
    [
        ("POST", LATER, ServerFailed, len(WAITS_S) + 1),
        ("GET", httpx.ConnectError("refused"), ConnectionFailed, len(WAITS_S) + 1),
        ("POST", TAKEN, Conflict, 1),
        ("DELETE", LATER, ServerFailed, 1),
        ("PATCH", httpx.ConnectError("refused"), ConnectionFailed, 1),
        ("POST", httpx.ReadTimeout("slow"), ConnectionFailed, 1),
    ],
)
def test_what_is_not_safe_or_hopeless_is_told(
    method: str, answer: Any, fault: type[FineryAPIError], times: int
) -> None:
    server = Server(answer)
    with pytest.raises(fault):
        server.client().send(method, "/things")
    assert len(server.heard) == times


def test_nobody_waits_longer_than_half_a_minute() -> None:
    slow: Callable[[], httpx.Response] = lambda: httpx.Response(  # noqa: E731
        503, json={"error": {"code": "unavailable", "message": "m"}}, headers={"retry-after": "3600"}
    )
    server = Server(slow(), DONE)
    server.client().send("POST", "/things")
    assert server.waits == [30.0]
