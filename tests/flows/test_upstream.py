"""Upstream systems on the bus, with a project's own credential: events create work once, facts come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from finery_contracts.inbound import TASK_REQUESTED
from finery_kit.testing import flushed
from tests.flows.conftest import ended
from tests.flows.test_main_thread import upload


@pytest.fixture
async def bus(api: httpx.AsyncClient) -> AsyncIterator[Client]:
    """A client with the credential that ``finery up`` prints."""

    async def quiet(_: Exception) -> None:
        return None

    client = Client()
    await client.connect(api.ready.nats_url, error_cb=quiet)  # type: ignore[attr-defined]
    yield client
    await client.close()


def requested(number: int, **data: Any) -> bytes:
    event = {"specversion": "1.0", "id": f"n{number}", "source": "warehouse", "type": TASK_REQUESTED, "data": data}
    return json.dumps(event).encode()


async def test_an_event_makes_one_task_however_often_it_comes(api: httpx.AsyncClient, bus: Client) -> None:
    project = api.ready.project  # type: ignore[attr-defined]
    facts = await bus.subscribe(f"finery.evt.{project}.task.>")
    file = await upload(api)
    await ended(api, file["x_finery"]["task"])
    body = requested(1, kind="tune", model="smollm2-135m-instruct", dataset=file["x_finery"]["dataset"], output="mine")

    for _ in range(3):
        await bus.publish(f"finery.in.{project}.jobs", body)
    await flushed(bus)

    async with asyncio.timeout(20):
        async for message in facts.messages:
            if message.subject.endswith(".succeeded") and json.loads(message.data)["data"]["kind"] == "tune":
                break
    tunes = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]
    assert len(tunes) == 1
    assert tunes[0]["created_by"] == "event:warehouse"
    assert (await api.get("/api/v1/models/mine")).json()["published"] is True


async def test_an_event_that_cannot_be_followed_is_answered_with_the_reason(
    api: httpx.AsyncClient, bus: Client
) -> None:
    project = api.ready.project  # type: ignore[attr-defined]
    refusals = await bus.subscribe(f"finery.evt.{project}.inbound.>")

    await bus.publish(f"finery.in.{project}.jobs", requested(2, kind="tune", model="nope", dataset="nope", foo=1))

    refused = json.loads((await refusals.next_msg(timeout=10)).data)["data"]
    assert refused["id"] == "n2"
    assert refused["error"]["code"] == "unknown_parameter"


async def test_a_project_credential_opens_nothing_else(api: httpx.AsyncClient, bus: Client) -> None:
    other = (await api.post("/api/v1/projects", json={"name": "other"})).json()["id"]
    overheard = [await bus.subscribe(subject) for subject in (f"finery.evt.{other}.>", "finery.rpc.>", "_FINERY.>")]
    await flushed(bus)
    await api.post("/api/v1/topics", json={"name": "jobs"})

    with pytest.raises((NatsTimeout, NoRespondersError)):
        await bus.request("finery.rpc.studio.claim", b"{}", timeout=0.5)
    with pytest.raises((NatsTimeout, NoRespondersError)):
        await bus.request("$JS.API.STREAM.INFO.EVENTS", b"", timeout=0.5)
    assert all(not subscription.pending_msgs for subscription in overheard)
