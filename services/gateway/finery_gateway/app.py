"""The gateway put together: one HTTP server, two mirrors of the bus, the usage journal and its shipper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import aiohttp
from aiohttp import web
from pydantic import BaseModel

from finery_contracts.access import KeyGrant
from finery_contracts.deployments import Route
from finery_contracts.envelope import Event
from finery_contracts.errors import Unavailable
from finery_contracts.streams import KV_KEYS, KV_ROUTES
from finery_gateway.adapters import Directory, Mirror, Waker
from finery_gateway.handlers import Completions
from finery_gateway.proxy import StudioProxy
from finery_gateway.settings import GatewaySettings
from finery_gateway.shipper import Shipper
from finery_gateway.store import Journal
from finery_kit.service import Service

log = logging.getLogger("finery.gateway")
NAME = "gateway"
FIRST_LOAD_S = 10.0
DRAIN_S = 30.0

# The gateway hears no facts, mirrors two buckets, says usage.recorded, and says it again when the bus was rebuilt.
ROUTES: dict[type[Event], Callable[..., None]] = {}
REQUESTS: dict[str, type[BaseModel]] = {}


def build(settings: GatewaySettings) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    journal = Journal(settings.home / "gateway" / "usage", segment_bytes=settings.gateway_segment_bytes)
    directory = Directory(
        Mirror(KV_KEYS, KeyGrant, lambda: service.jetstream, settings.gateway_resync_s),
        Mirror(KV_ROUTES, Route, lambda: service.jetstream, settings.gateway_resync_s),
    )
    waker = Waker(lambda: service.client, directory, settings.gateway_wake_s)
    shipper = Shipper(
        journal, lambda: service.jetstream, settings.gateway_ship_interval_s, settings.retention.usage_journal_days
    )
    shipper.stream = service.rebuild_from(shipper, each=True)
    server = Server(settings, directory, waker, journal)

    async def open_journal() -> None:
        await asyncio.to_thread(journal.open)

    service.before_start += [server.bind, open_journal]
    service.loops += [directory.keys.run, directory.routes.run, shipper.run, shipper.forget, server.run]
    service.before_stop += [server.close, waker.close, shipper.finish, journal.close]
    return service


class Server:
    """The public port."""

    def __init__(self, settings: GatewaySettings, directory: Directory, waker: Waker, journal: Journal) -> None:
        self._settings, self._directory, self._waker, self._journal = settings, directory, waker, journal
        self._secret = settings.secret
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._clients: list[aiohttp.ClientSession] = []

    async def bind(self) -> None:
        """Take the port; calls that come now wait.

        Raises:
            Unavailable: somebody else has it.
        """
        host, port = self._settings.gateway_host, self._settings.gateway_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as fault:
            raise Unavailable(
                f"the gateway cannot listen on {host}:{port}: {fault.strerror}; set FINERY_GATEWAY_HOST and _PORT",
                code="port_taken",
            ) from fault

    async def run(self) -> None:
        """Answer, once keys and routes are known, so that no good key is refused at the start."""
        if self._runner is not None:
            await self.close()
        if self._socket is None:
            await self.bind()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOAD_S):
                await self._directory.keys.loaded.wait()
                await self._directory.routes.loaded.wait()
        # A caller who goes away cancels its handler, which ends the request to the instance.
        self._runner = web.AppRunner(
            self._application(), handle_signals=False, handler_cancellation=True, access_log=None,
            auto_decompress=False, shutdown_timeout=DRAIN_S,
        )  # fmt: skip
        await self._runner.setup()
        assert self._socket is not None
        await web.SockSite(self._runner, self._socket, backlog=1024).start()
        log.info("gateway_listens", extra={"port": self._settings.gateway_port})

    async def close(self) -> None:
        """Take no more requests, finish those at hand."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for client in self._clients:
            await client.close()
        self._clients.clear()

    def _application(self) -> web.Application:
        silence_s = self._settings.gateway_silence_s
        completions = Completions(
            self._settings, self._secret, self._directory, self._waker, self._journal,
            self._client(aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_s)),
        )  # fmt: skip
        proxy = StudioProxy(self._settings.studio_url, self._client(aiohttp.ClientTimeout(total=None, sock_connect=5)))
        app = web.Application()
        app.router.add_post("/v1/chat/completions", completions.answer)
        app.router.add_post("/v1/completions", completions.answer)
        app.router.add_get("/healthz", _healthz)
        app.router.add_route("*", "/{path:.*}", proxy.answer)
        return app

    def _client(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        client = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=20), auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
        )  # fmt: skip
        self._clients.append(client)
        return client


async def _healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
