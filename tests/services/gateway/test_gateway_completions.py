"""Completions through the public port: who may, where to, how fast, and that bytes pass as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from aiohttp import web
from gateway_rig import USAGE_CHUNK, Rig, chunks, gateway_rig, sent, served

from finery_contracts.deployments import DeploymentState
from finery_contracts.streams import KV_KEYS
from finery_kit.keys import key_hash
from finery_kit.ports import free_port
from finery_kit.testing import nats_server

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


async def test_an_answer_comes_back_as_the_instance_gave_it(rig: Rig):
    await rig.add_route()
    async with rig.gateway():
        async with rig.post(CHAT) as answer:
            body = await answer.json()
        async with rig.post({"model": "chat", "prompt": "hi"}, path="/v1/completions") as other:
            assert other.status == 200
    assert answer.status == 200
    assert body["choices"][0]["message"]["content"] == "hello"
    assert answer.headers["X-Request-Id"].startswith("req_")
    assert rig.engine.headers[0]["Authorization"] == "Bearer instance-token"
    assert rig.engine.headers[0]["X-Request-Id"] == answer.headers["X-Request-Id"]
    assert "fk-good" not in str(rig.engine.headers)


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_stream_passes_byte_for_byte_with_usage_only_where_it_was_asked_for(rig: Rig, wants_usage: bool):
    await rig.add_route()
    ask = {**CHAT, "stream": True, **({"stream_options": {"include_usage": True}} if wants_usage else {})}
    async with rig.gateway(), rig.post(ask) as answer:
        got = await answer.read()
    everything = chunks({"stream_options": {"include_usage": True}})
    expected = everything if wants_usage else [piece for piece in everything if piece != USAGE_CHUNK]
    assert got == b"".join(expected)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert rig.engine.bodies[0]["stream_options"] == {"include_usage": True}


async def test_a_stream_that_comes_in_odd_pieces_is_the_same_stream(rig: Rig):
    everything = b"".join(chunks({"stream_options": {"include_usage": True}}))

    async def in_bytes(request: web.Request) -> web.StreamResponse:
        return await sent(request, *(everything[at : at + 7] for at in range(0, len(everything), 7)))

    rig.engine.answer = in_bytes
    await rig.add_route()
    async with rig.gateway(), rig.post({**CHAT, "stream": True}) as answer:
        got = await answer.read()
    assert got == everything.replace(USAGE_CHUNK, b"")


async def test_chunks_arrive_as_they_are_made(rig: Rig):
    go_on = asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    rig.engine.answer = slowly
    await rig.add_route()
    async with rig.gateway(), rig.post({**CHAT, "stream": True}) as answer:
        first = await answer.content.readany()
        go_on.set()
        rest = await answer.read()
    assert (first, rest) == (b"data: {}\n\n", b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("asked", "default", "sent_on"),
    [({}, 16, 16), ({"max_tokens": 5}, 16, 5), ({"max_completion_tokens": 5}, 16, None), ({}, None, None),
     ({"max_tokens": None}, 16, 16)],
)  # fmt: skip
async def test_the_deployments_limit_holds_where_the_caller_gave_none(rig: Rig, asked: dict, default, sent_on):
    await rig.add_route(default_max_tokens=default)
    async with rig.gateway(), rig.post({**CHAT, **asked}) as answer:
        await answer.read()
    assert rig.engine.bodies[0].get("max_tokens") == sent_on


async def test_nothing_is_rewritten_where_nothing_must_be_added(rig: Rig):
    await rig.add_route()
    raw = b'{ "model":"chat" , "max_tokens":3,"messages":[{"role":"user","content":"\\u00e9"}]}'
    async with rig.gateway(), rig.post(raw) as answer:
        await answer.read()
    assert rig.engine.raw == [raw]


async def test_an_instance_is_asked_under_the_name_it_serves(rig: Rig):
    await rig.add_route("trial-mdl_1", names=["trial-mdl_1", "ft:base:p:s:1"])
    async with rig.gateway(), rig.post({**CHAT, "model": "trial-mdl_1"}) as answer:
        assert answer.status == 200
    assert rig.engine.bodies[0]["model"] == "ft:base:p:s:1"


@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, "missing_api_key"), ({"Authorization": "Bearer fk-wrong"}, "invalid_api_key"),
     ({"Authorization": "Basic Zm9v"}, "invalid_api_key"), ({"Authorization": "Bearer "}, "missing_api_key")],
)  # fmt: skip
async def test_without_a_good_key_nothing_is_answered(rig: Rig, headers: dict[str, str], code: str):
    await rig.add_route()
    async with rig.gateway():
        status, said, answer = await rig.refusal(CHAT, key=None, headers=headers)
    assert (status, said in (code, "invalid_api_key")) == (401, True)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert rig.engine.bodies == []


async def test_a_key_works_as_soon_as_it_is_made_and_no_longer_once_it_is_revoked(rig: Rig):
    await rig.add_route()
    async with rig.gateway():
        await rig.add_key("fk-new")
        async with rig.post(CHAT, key="fk-new") as answer:
            assert answer.status == 200
        bucket = await rig.client.jetstream().key_value(KV_KEYS)
        await bucket.delete(key_hash(bytes(range(32)), "fk-new"))

        async def refused() -> bool:
            async with rig.post(CHAT, key="fk-new") as late:
                return late.status == 401

        await rig.until_true(refused)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalid_json"), (b'{"a": NaN, "model": "chat"}', "invalid_json"), (b"[]", "invalid_request"),
     (b"{}", "missing_required_parameter"), (b'{"model": 3}', "invalid_request"), (b"", "invalid_json"),
     (b"[" * 100_000, "invalid_json")],
)  # fmt: skip
async def test_a_body_that_is_no_request_is_refused_with_the_reason(rig: Rig, body: bytes, code: str):
    async with rig.gateway():
        status, said, _ = await rig.refusal(body)
    assert (status, said) == (400, code)


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length_given(rig: Rig):
    async def in_pieces():
        for _ in range(64):
            yield b"x" * 1024

    async with rig.gateway(gateway_max_body_bytes=4096):
        status, code, _ = await rig.refusal(b"x" * 5000)
        async with rig.http.post(
            f"{rig.url}/v1/completions", data=in_pieces(), headers={"Authorization": "Bearer fk-good"}
        ) as chunked:
            assert chunked.status == 413
    assert (status, code) == (413, "body_too_large")


async def test_an_encoded_body_is_refused(rig: Rig):
    async with rig.gateway():
        status, code, _ = await rig.refusal(b"xx", headers={"Content-Encoding": "gzip"})
    assert (status, code) == (400, "unsupported_encoding")


async def test_a_model_that_is_not_there_and_one_that_does_not_run_are_told_apart(rig: Rig):
    await rig.add_route("resting", state=DeploymentState.STOPPED, url=None, token=None)
    await rig.add_route("rising", state=DeploymentState.DEPLOYING, url=None, token=None)
    await rig.add_route("foreign", project="proj_b")
    async with rig.gateway():
        unknown = await rig.refusal({**CHAT, "model": "nothing"})
        resting = await rig.refusal({**CHAT, "model": "resting"})
        rising = await rig.refusal({**CHAT, "model": "rising"})
        foreign = await rig.refusal({**CHAT, "model": "foreign"})
    assert unknown[:2] == (404, "model_not_found")
    assert resting[:2] == (404, "deployment_not_running")
    assert "/start" in (await resting[2].json())["error"]["message"]
    assert rising[:2] == (503, "deployment_starting")
    assert int(rising[2].headers["Retry-After"]) >= 1
    assert foreign[:2] == (404, "model_not_found")


async def test_a_deployment_can_be_called_as_soon_as_it_runs(rig: Rig):
    async with rig.gateway():
        await rig.add_route("fresh")
        async with rig.post({**CHAT, "model": "fresh"}) as answer:
            assert answer.status == 200


async def test_calls_above_the_rate_wait_as_long_as_they_are_told(rig: Rig):
    await rig.add_route(qps=0.25)
    await rig.add_route("other", qps=0.25)
    async with rig.gateway():
        async with rig.post(CHAT) as first:
            assert first.status == 200
        status, code, answer = await rig.refusal(CHAT)
        async with rig.post({**CHAT, "model": "other"}) as other:
            assert other.status == 200
    assert (status, code) == (429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "4"


async def test_an_error_of_the_instance_is_the_callers_answer(rig: Rig):
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "n", "code": "invalid_value"}}, status=400)

    rig.engine.answer = refuse
    await rig.add_route()
    async with rig.gateway():
        async with rig.post(CHAT) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_value")
        (call,) = await rig.calls(1)
    assert (call.status, call.completion_tokens) == (400, 0)


async def test_an_instance_that_is_gone_is_a_503_and_one_that_moved_is_found(rig: Rig):
    await rig.add_route(url="http://127.0.0.1:9")
    async with rig.gateway(gateway_resync_s=60):
        status, code, answer = await rig.refusal(CHAT)
    assert (status, code) == (503, "deployment_unreachable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_an_instance_that_refuses_our_token_is_not_the_callers_fault(rig: Rig):
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=401)

    rig.engine.answer = refuse
    await rig.add_route()
    async with rig.gateway():
        status, code, _ = await rig.refusal(CHAT)
    assert (status, code) == (503, "deployment_unreachable")


async def test_a_stream_that_the_instance_cuts_ends_with_an_error_and_without_the_end_marker(rig: Rig):
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"".join(chunks({})[:2]))
        assert request.transport is not None
        request.transport.close()
        return response

    rig.engine.answer = cut
    await rig.add_route()
    async with rig.gateway():
        async with rig.post({**CHAT, "stream": True}) as answer:
            got = await answer.read()
        (call,) = await rig.calls(1)
    last = json.loads(got.rstrip().rsplit(b"data: ", 1)[1])
    assert last["error"]["code"] == "deployment_unreachable"
    assert b"[DONE]" not in got
    assert (call.status, call.completion_tokens) == (503, 1)


async def test_a_caller_who_leaves_frees_the_instance_and_is_recorded(rig: Rig):
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"".join(chunks({})[:3]))
        await asyncio.Event().wait()
        return response

    rig.engine.answer = endless
    await rig.add_route()
    async with rig.gateway():
        async with rig.post({**CHAT, "stream": True}) as answer:
            await answer.content.readany()
            answer.close()
        await asyncio.wait_for(rig.engine.cancelled.wait(), 10)
        (call,) = await rig.calls(1)
    assert (call.status, call.completion_tokens) == (499, 2)


async def test_a_caller_who_leaves_before_an_unstreamed_answer_frees_the_instance_too(rig: Rig):
    arrived = asyncio.Event()

    async def endless(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    rig.engine.answer = endless
    await rig.add_route()
    async with rig.gateway():
        call = asyncio.ensure_future(rig.http.post(f"{rig.url}/v1/completions", json={"model": "chat"}, headers={
            "Authorization": "Bearer fk-good"}))  # fmt: skip
        await asyncio.wait_for(arrived.wait(), 10)
        call.cancel()
        await asyncio.wait_for(rig.engine.cancelled.wait(), 10)


async def test_the_callers_trace_goes_on_in_the_instance_and_nothing_said_is_in_it(rig: Rig):
    await rig.add_route()
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with (
        rig.gateway(),
        rig.post(
            {**CHAT, "messages": [{"role": "user", "content": "my secret"}]},
            headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        ) as answer,
    ):
        await answer.read()
    spans = (rig.home / "spans.jsonl").read_text()
    assert trace in rig.engine.headers[0]["traceparent"]
    assert trace in spans
    assert '"finery-gateway"' in spans
    assert "my secret" not in spans
    assert "fk-good" not in spans


async def test_a_second_gateway_on_the_port_says_so(rig: Rig):
    from finery_contracts.errors import Unavailable
    from finery_gateway import app

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response()

    async with served(handler, port=rig.port):
        with pytest.raises(Unavailable) as taken:
            await app.build(rig.settings()).start()
    assert taken.value.error_code == "port_taken"


async def test_calls_go_on_while_the_bus_is_away_and_are_shipped_when_it_is_back(tmp_path: Path):
    port = free_port()
    with contextlib.ExitStack() as broker:
        url = broker.enter_context(nats_server(tmp_path / "nats", port=port))
        async with gateway_rig(tmp_path, url) as rig, rig.gateway():
            # given
            await rig.add_route()
            async with rig.post(CHAT) as before:
                assert before.status == 200
            await rig.calls(1)

            # when
            broker.close()
            async with rig.post(CHAT) as meanwhile:
                assert meanwhile.status == 200
            broker.enter_context(nats_server(tmp_path / "nats", port=port))

            # then
            await rig.until_true(lambda: rig.client.is_connected)
            assert len(await rig.calls(2)) == 2
