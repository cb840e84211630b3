"""The gateway's decisions without anything around them."""

from __future__ import annotations

import pytest

from finery_contracts.deployments import DeploymentState, Route
from finery_gateway import domain
from finery_gateway.domain import AnswerStream, TokenBucket, Tokens
from finery_kit.keys import key_hash


def a_route(state: DeploymentState, *, deployment: str = "dep_1", names: tuple[str, ...] = ("chat",)) -> Route:
    return Route(deployment=deployment, project="p", names=list(names), state=state, qps=1, max_length=64, revision=1)


def test_a_key_is_known_by_a_hash_that_needs_the_secret():
    assert key_hash(b"a" * 32, "fk-1") == key_hash(b"a" * 32, "fk-1")
    assert key_hash(b"a" * 32, "fk-1") != key_hash(b"b" * 32, "fk-1")
    assert len(key_hash(b"a" * 32, "fk-\udce9")) == 64


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (5, 5)])
def test_a_bucket_gives_a_burst_and_then_its_rate(rate: float, burst: int):
    bucket = TokenBucket.full(rate, 0.0)
    assert [bucket.take(0.0) for _ in range(burst)] == [0.0] * burst
    wait_s = bucket.take(0.0)
    assert wait_s == pytest.approx(1 / rate)
    assert bucket.take(wait_s) == 0.0


def test_of_two_routes_under_a_name_the_running_one_is_called():
    running = a_route(DeploymentState.RUNNING, deployment="dep_1")
    stopped = a_route(DeploymentState.STOPPED, deployment="dep_2")
    for routes in ([running, stopped], [stopped, running]):
        assert domain.index(routes)[("p", "chat")] == running


def test_text_that_looks_like_a_usage_chunk_is_text():
    event = b'data: {"choices":[{"delta":{"content":"{\\"usage\\": 1}"}}],"usage":null}\n\n'
    stream = AnswerStream(strip_usage=True)
    assert stream.feed(event) == event
    assert stream.tokens == Tokens(prompt=0, completion=1)


def test_a_stream_without_events_passes_unread():
    stream = AnswerStream(strip_usage=True)
    data = b"x" * (domain.MAX_EVENT_BYTES + 1)
    assert stream.feed(data) + stream.rest() == data


def test_line_ends_of_either_kind_end_an_event():
    stream = AnswerStream(strip_usage=True)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\r\n\r\n'
    assert stream.feed(b"data: {}\r\n\r\n" + usage + b"data: [DONE]\r\n\r\n") == b"data: {}\r\n\r\n"
    assert stream.whole
    assert (stream.tokens, stream.rest()) == (Tokens(1, 2), b"data: [DONE]\r\n\r\n")
