"""Studio asks the broker whether it is there; an answer that comes late must not make it deaf."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nats

from finery_kit.testing import nats_server
from finery_studio.loops import Loops
from tests.chaos.proxy import FaultProxy, to_port


async def test_a_broker_that_answers_late_is_away_and_then_there_again(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as url:
        proxy = FaultProxy(to_port(int(url.rpartition(":")[2])))
        await proxy.start()
        client = await nats.connect(f"nats://127.0.0.1:{proxy.port}")
        loops = Loops.__new__(Loops)
        loops.service = cast(Any, SimpleNamespace(client=client))
        assert await loops._on_the_bus()
        heard = await client.subscribe("said")

        proxy.stall(1.0, 1.5)
        assert not await loops._on_the_bus()
        async with asyncio.timeout(20):
            while not await loops._on_the_bus():
                await asyncio.sleep(0.05)

        await client.publish("said", b"word")
        assert (await heard.next_msg(timeout=5)).data == b"word"
        await client.close()
        await proxy.stop()
