"""A project's story, read from any place: over HTTP, as a stream, over NATS; and one wish sent two hundred times."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import nats
import pytest

from tests.flows.conftest import ended
from tests.flows.test_main_thread import upload


async def story(api: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    """All pages."""
    found, after = list[dict[str, Any]](), 0
    while True:
        page = (await api.get("/api/v1/events", params={"after": after, "limit": 5, **asked})).json()
        found += page["data"]
        after = page["next"]
        if not page["has_more"]:
            return found


async def charged(api: httpx.AsyncClient, task: str) -> list[dict[str, Any]]:
    """What the log says of a task, once its charge is in it."""
    async with asyncio.timeout(30):
        while True:
            told = await story(api, noun=task)
            if any(item["event"]["type"] == "io.finery.billing.charged.v1" for item in told):
                return told
            await asyncio.sleep(0.1)


async def test_one_wish_sent_two_hundred_times_makes_one_task_one_charge_and_one_story(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    await ended(api, file["x_finery"]["task"])
    wish = {"kind": "tune", "model": "smollm2-135m-instruct", "dataset": file["x_finery"]["dataset"]}

    async def insist() -> httpx.Response:
        async with asyncio.timeout(60):
            while True:
                answer = await api.post("/api/v1/tasks", json=wish, headers={"idempotency-key": "one"})
                if answer.status_code != 409:
                    return answer
                assert answer.headers["retry-after"] == "1"
                await asyncio.sleep(1)

    answers = await asyncio.gather(*(insist() for _ in range(200)))

    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    task = answers[0].json()["id"]
    assert (await ended(api, task))["state"] == "succeeded"
    tunes = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]
    assert [item["id"] for item in tunes] == [task]
    told = await charged(api, task)
    kinds = [item["event"]["type"].removeprefix("io.finery.")[:-3] for item in told]
    assert kinds.count("task.created") == kinds.count("billing.charged") == 1
    assert {item["event"]["source"] for item in told} >= {"finery/studio", "finery/billing-meter"}


async def test_the_past_is_read_as_a_stream_and_over_nats_by_the_project_alone(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    await ended(api, file["x_finery"]["task"])
    told = await story(api, types="task.*")
    project, url = api.ready.project, api.ready.nats_url  # type: ignore[attr-defined]

    lines = list[str]()
    streamed = api.stream(
        "GET", "/api/v1/events", params={"follow": True, "types": "task.*"},
        headers={"last-event-id": str(told[1]["seq"])},
    )  # fmt: skip
    async with asyncio.timeout(20), streamed as stream:
        async for line in stream.aiter_lines():
            lines += [line] if line.startswith(("id: ", "data: ")) else []
            if len(lines) == 2 * len(told[2:]):
                break
    assert [int(line[4:]) for line in lines[::2]] == [item["seq"] for item in told[2:]]
    assert [json.loads(line[6:]) for line in lines[1::2]] == [item["event"] for item in told[2:]]

    async def quiet(_: Exception) -> None:
        return None

    bus = await nats.connect(url, inbox_prefix=f"_INBOX_{project}".encode(), error_cb=quiet)
    try:
        asked = json.dumps({"after": told[1]["seq"], "types": ["task.*"], "limit": 1000}).encode()
        answer = json.loads((await bus.request(f"finery.replay.{project}", asked, timeout=5)).data)
        wrong = json.loads((await bus.request(f"finery.replay.{project}", b'{"limit": 0}', timeout=5)).data)
        everything = await bus.request(f"finery.replay.{project}", b'{"all_projects": true}', timeout=5)
        elsewhere = await bus.subscribe(f"finery.evt.{project}.>")
        await bus.publish(f"finery.replay.{project}", b"{}", reply=f"finery.evt.{project}.task.t.created")
        with pytest.raises(nats.errors.TimeoutError):
            await elsewhere.next_msg(timeout=0.5)
    finally:
        await bus.close()
    assert [item["event"] for item in answer["data"]] == [item["event"] for item in told[2:]]
    assert wrong["error"]["param"] == "limit"
    assert json.loads(everything.data)["error"]["code"] == "role_too_low"
