"""Everything but completions goes to studio as it came."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from gateway_rig import Rig


async def test_requests_and_answers_pass_with_their_headers_but_those_of_the_connection(rig: Rig):
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.json_response({"seen": dict(request.headers), "path": request.raw_path}, status=201)
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        response.headers["Keep-Alive"] = "timeout=5"
        return response

    rig.studio_answer = answer
    headers = {
        "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Connection": "x-mine", "X-Mine": "1", "X-Kept": "yes",
        "Authorization": "Bearer k", "TE": "trailers",
    }  # fmt: skip
    async with rig.gateway(), rig.http.put(f"{rig.url}/api/v1/x%2Fy?a=%20b&c", headers=headers, data=b"z") as got:
        body = await got.json()
    seen = {name.lower(): value for name, value in body["seen"].items()}
    assert got.status == 201
    assert body["path"] == "/api/v1/x%2Fy?a=%20b&c"
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert (seen["x-kept"], seen["authorization"]) == ("yes", "Bearer k")
    assert not {"x-real-ip", "x-mine", "te"} & set(seen)
    assert got.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert "Keep-Alive" not in got.headers


async def test_uploads_stream_through_without_being_held(rig: Rig):
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def count(request: web.Request) -> web.StreamResponse:
        total = len(await request.content.readany())
        arrived.set()
        async for piece in request.content.iter_any():
            total += len(piece)
        return web.json_response({"size": total})

    async def upload():
        yield b"x" * 1000
        await go_on.wait()
        for _ in range(20):
            yield b"x" * 2**20

    rig.studio_answer = count
    async with rig.gateway():
        call = asyncio.ensure_future(rig.http.post(f"{rig.url}/v1/files", data=upload()))
        await asyncio.wait_for(arrived.wait(), 10)
        go_on.set()
        async with await call as answer:
            assert (await answer.json())["size"] == 1000 + 20 * 2**20


async def test_an_upload_that_is_encoded_stays_so(rig: Rig):
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read(), headers={"X-Encoding": request.headers["Content-Encoding"]})

    rig.studio_answer = echo
    packed = gzip.compress(b"hello")
    upload = {"data": packed, "headers": {"Content-Encoding": "gzip"}}
    async with rig.gateway(), rig.http.post(f"{rig.url}/v1/files", **upload) as answer:
        assert await answer.read() == packed
        assert answer.headers["X-Encoding"] == "gzip"


async def test_without_studio_everything_else_is_a_503_and_completions_go_on(rig: Rig):
    await rig.add_route()
    async with rig.gateway(studio_url="http://127.0.0.1:9"):
        async with rig.http.get(f"{rig.url}/v1/models") as away:
            error = (await away.json())["error"]
        async with rig.post({"model": "chat", "messages": []}) as answer:
            assert answer.status == 200
    assert (away.status, error["code"], error["type"]) == (503, "unavailable", "server_error")
    assert int(away.headers["Retry-After"]) >= 1


async def test_half_an_answer_is_not_taken_for_the_whole(rig: Rig):
    import aiohttp
    import pytest

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    rig.studio_answer = cut
    async with rig.gateway(), rig.http.get(f"{rig.url}/x") as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_target_that_is_no_path_goes_nowhere(rig: Rig):
    async with rig.gateway():
        for target in ("http://127.0.0.1:9/", "*", "@127.0.0.1:9/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            method = "OPTIONS" if target == "*" else "GET"
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert b" 400 " in head or b" 404 " in head, (target, head)
    assert rig.studio == []


async def test_health_is_answered_by_the_gateway_itself(rig: Rig):
    async with rig.gateway(studio_url="http://127.0.0.1:9"), rig.http.get(f"{rig.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
