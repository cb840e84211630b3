"""Everything but completions: passed to studio as it comes, streaming both ways, nothing held back.

It refuses request targets that are not a path, so that no caller can choose where a request goes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from finery_contracts.errors import InvalidRequest, Unavailable
from finery_contracts.ids import new_id
from finery_gateway.handlers import refused

log = logging.getLogger("finery.gateway")
HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
TOLD_BY_US = frozenset({"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "expect"})


@dataclass
class StudioProxy:
    """The handler of all other paths."""

    studio_url: str
    http: aiohttp.ClientSession

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any method, any path."""
        request_id = new_id("req")
        if not request.raw_path.startswith("/"):
            wrong = InvalidRequest("the request target must be a path that begins with /", code="invalid_target")
            return refused(wrong, request_id)
        try:
            async with self.http.request(
                request.method, URL(self.studio_url + request.raw_path, encoded=True), headers=_sent_on(request),
                data=request.content if request.body_exists else None, allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as upstream:  # fmt: skip
                return await _pass_on(request, upstream)
        except (aiohttp.ClientConnectionError, TimeoutError, aiohttp.ClientResponseError) as fault:
            log.warning("studio_away", extra={"error": repr(fault)})
            away = Unavailable("studio does not answer at the moment; try again in a few seconds")
            return refused(away, request_id)


async def _pass_on(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    for name, value in _end_to_end(upstream.headers).items():
        response.headers.add(name, value)
    await response.prepare(request)
    while True:
        try:
            data = await upstream.content.readany()
        except (aiohttp.ClientError, OSError) as fault:
            # Half an answer is out: cut the connection, so that nobody takes it for the whole.
            log.warning("studio_cut_off", extra={"error": repr(fault)})
            if request.transport is not None:
                request.transport.abort()
            return response
        try:
            await (response.write(data) if data else response.write_eof())
        except ConnectionError:  # the caller left
            return response
        if not data:
            return response


def _sent_on(request: web.Request) -> CIMultiDict[str]:
    headers = _end_to_end(request.headers)
    for name in TOLD_BY_US:
        headers.popall(name, None)
    headers["X-Forwarded-For"] = request.remote or "unknown"
    headers["X-Forwarded-Host"] = request.host
    headers["X-Forwarded-Proto"] = request.scheme
    return headers


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """All headers but those of one connection, among them what ``Connection`` names."""
    kept = CIMultiDict(headers)
    named = {name.strip().lower() for value in kept.getall(hdrs.CONNECTION, []) for name in value.split(",")}
    for name in (HOP_BY_HOP | named) - {""}:
        kept.popall(name, None)
    return kept
