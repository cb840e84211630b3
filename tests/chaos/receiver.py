"""A webhook subscriber that records everything it is told, refuses some of it, and is never sent away."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web

REFUSES = 0.2


@dataclass
class Receiver:
    """Per path (one for each project): in how many messages each fact came.

    A message that comes again has the id that it had before: subscribers are promised at least once, and throw it away.
    """

    rng: random.Random
    url: str = ""
    taken: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict[str, Counter[tuple[str, str]]])
    known: set[str] = field(default_factory=set[str])
    refused: int = 0
    repeated: int = 0
    peaceful: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handshake is agreed to; a fact is taken, or refused for now."""
        if request.method == "OPTIONS":
            return web.Response(headers={"WebHook-Allowed-Origin": "*"})
        event = json.loads(await request.read())
        if not self.peaceful and self.rng.random() < REFUSES:
            self.refused += 1
            return web.Response(status=503)
        fact, noun_id = event["type"].split(".")[-2], event["subject"].partition("/")[2]
        message = request.headers["webhook-id"]
        if message in self.known:
            self.repeated += 1
            return web.Response()
        self.known.add(message)
        self.taken.setdefault(request.match_info["project"], Counter())[fact, noun_id] += 1
        return web.Response()


@contextlib.asynccontextmanager
async def receiving(rng: random.Random) -> AsyncIterator[Receiver]:
    """Listens on loopback."""
    receiver = Receiver(rng)
    app = web.Application()
    app.router.add_route("*", "/{project}", receiver.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()
