"""The broker dies under load and its storage is gone: the house makes it again, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.embedded import Options, house
from finery_contracts.streams import EVENTS
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.service import connected
from tests.chaos.receiver import Receiver, receiving
from tests.flows.conftest import QuickExecutor

GALLERY = "smollm2-135m-instruct"
CHOSEN = ("created", "running", "succeeded")
ENDED = {"succeeded", "failed", "terminated"}
Json = dict[str, Any]


class Brokers:
    """Every broker that a house starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        self.made = list[NatsServer]()
        real = NatsServer.__init__

        def remember(server: NatsServer, *args: Any, **named: Any) -> None:
            real(server, *args, **named, **settings)
            self.made.append(server)

        monkeypatch.setattr(NatsServer, "__init__", remember)

    async def lose_everything(self, meanwhile: Any) -> None:
        """SIGKILL, and the folder of JetStream is gone before the watchdog starts it again."""
        (server,) = self.made
        process = server._process
        assert process is not None
        process.kill()
        await process.wait()
        shutil.rmtree(server.folder / "jetstream")
        async with asyncio.timeout(20):
            while server._process is process:
                await meanwhile()


class Load:
    """Somebody who wants tasks of several kinds all the time, and asks again until each wish was answered."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self.api, self.wanted, self.dataset, self.model = api, Counter[str](), "", ""
        self.tasks: dict[str, str] = {}

    async def prepare(self, receiver: Receiver) -> None:
        await self.sure("POST", "/api/v1/topics", json={"name": "all"})
        hook = {"topic": "all", "url": f"{receiver.url}/house"}
        subscription = await self.sure("POST", "/api/v1/subscriptions", json=hook)
        await self.until(f"/api/v1/subscriptions/{subscription['id']}", {"confirmed"})
        file = await self.sure("POST", "/v1/files", files={"file": ("t.jsonl", b"{}\n")}, data={"purpose": "fine-tune"})
        self.dataset = file["x_finery"]["dataset"]
        model = {"name": "base", "source": {"gallery": GALLERY}}
        self.model = (await self.sure("POST", "/api/v1/models", json=model))["id"]
        await self.until(f"/api/v1/datasets/{self.dataset}", {"ready"})
        await self.until(f"/api/v1/models/{self.model}", {"ready", "published"})

    async def run(self, count: int) -> None:
        for number in range(count):
            tag, both = f"wish-{number}", {"model": self.model, "dataset": self.dataset}
            kind = ("tune", "evaluate", "ingest")[number % 3]
            body = {
                "tune": {"kind": "tune", **both, "output": tag}, "evaluate": {"kind": "evaluate", **both},
                "ingest": {"kind": "ingest", "dataset": self.dataset},
            }[kind]  # fmt: skip
            wish = {**body, "name": tag, "notify": {"topic": "all", "events": CHOSEN}}
            self.tasks[tag] = (await self.sure("POST", "/api/v1/tasks", tag, json=wish))["id"]

    async def sure(self, method: str, path: str, key: str | None = None, **said: Any) -> Json:
        headers = {"idempotency-key": key} if key else {}
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await self.api.request(method, path, headers=headers, **said)
                    if answer.is_success:
                        return answer.json()
                    busy = answer.status_code == 503 or answer.json()["error"]["code"] == "request_in_progress"
                    assert busy, answer.text
                    assert int(answer.headers["retry-after"]) > 0
                await asyncio.sleep(0.1)

    async def until(self, path: str, states: set[str]) -> None:
        async with asyncio.timeout(60):
            while (await self.sure("GET", path))["state"] not in states:
                await asyncio.sleep(0.1)


async def all_of(api: httpx.AsyncClient, path: str) -> list[Json]:
    found, after = list[Json](), None
    while True:
        page = (await api.get(path, params={"limit": 100} | ({"after": after} if after is not None else {}))).json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = page.get("next") or page["data"][-1]["id"]


async def on_the_bus(broker: NatsServer) -> list[Json]:
    """Every fact of the stream, in its order."""
    async with connected(broker.url("studio")) as client:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info(EVENTS.name)).state
        found = [await jetstream.get_msg(EVENTS.name, seq, direct=True) for seq in range(1, state.last_seq + 1)]
    return [json.loads(message.data or b"") for message in found]


async def at_rest(api: httpx.AsyncClient, tasks: int, receiver: Receiver) -> None:
    """Every task has ended, everybody was told, every charge is in the log."""
    async with asyncio.timeout(150):
        while True:
            found = await all_of(api, "/api/v1/tasks")
            if len(found) >= tasks and all(task["state"] in ENDED for task in found):
                told = receiver.taken.get("house", Counter())
                wished = [task["id"] for task in found if task["name"].startswith("wish-")]
                if all(told[fact, task] for task in wished for fact in CHOSEN):
                    return
            await asyncio.sleep(0.3)


async def rebuilt(api: httpx.AsyncClient) -> Json:
    """``finery bus rebuild``."""
    assert (await api.post("/api/v1/bus/rebuild")).status_code == 202
    async with asyncio.timeout(60):
        while not (page := (await api.get("/api/v1/bus/rebuild")).json())["done"]:
            await asyncio.sleep(0.2)
    return page


async def test_the_jetstream_folder_goes_in_mid_load_and_nothing_is_lost_or_doubled(
    tmp_path: Path, house_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    monkeypatch.setenv("QUICK_TUNE_S", "0.3")
    brokers = Brokers(monkeypatch)
    options = Options(home=tmp_path / "home", port=free_port(), allow_webhook_networks=("127.0.0.0/8",))
    async with receiving(random.Random(1)) as receiver, house(options) as ready:
        headers = {"authorization": f"Bearer {ready.api_key}"}
        async with httpx.AsyncClient(base_url=ready.url, headers=headers, timeout=30) as api:
            load = Load(api)
            await load.prepare(receiver)
            receiver.peaceful = True
            running = asyncio.create_task(load.run(36))
            for wishes in (8, 20):
                async with asyncio.timeout(120):
                    while len(load.tasks) < wishes:
                        await asyncio.sleep(0.02)
                await brokers.lose_everything(lambda: asyncio.sleep(0.05))
            async with asyncio.timeout(120):
                await running
            await at_rest(api, 36, receiver)
            page = await rebuilt(api)
            proof = await verified(api)
            log, facts = await said_on_the_bus(api, brokers.made[0])
            tasks = await all_of(api, "/api/v1/tasks")
            lines = await all_of(api, "/api/v1/bill/lines")

    assert {owner["owner"]: owner["error"] for owner in page["data"]} == dict.fromkeys(
        ("studio", "deployer", "notifier", "billing-meter", "gateway")
    )
    assert (proof["ok"], proof["total_ledger"]) == (True, proof["total_log"]), proof
    assert proof["lines"] >= 36
    wished = [task for task in tasks if task["name"].startswith("wish-")]
    assert {task["name"]: task["id"] for task in wished} == load.tasks
    assert {task["state"] for task in wished} == {"succeeded"}
    await all_was_told(receiver, log, wished)
    assert Counter(line["key"] for line in lines).most_common(1)[0][1] == 1
    judge(log, facts)


async def verified(api: httpx.AsyncClient) -> Json:
    """``finery bill verify``, once the meter has heard of the last attempt."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while not (await api.get("/api/v1/bill/verify")).json()["ok"]:
                await asyncio.sleep(0.2)
    return (await api.get("/api/v1/bill/verify")).json()


async def said_on_the_bus(api: httpx.AsyncClient, broker: NatsServer) -> tuple[list[Json], list[Json]]:
    """Log and bus, once the bus has whatever the log has; studio may have more to say yet, such as a signature."""
    async with asyncio.timeout(60):
        while True:
            log = await all_of(api, "/api/v1/events")
            facts = await on_the_bus(broker)
            if {item["event"]["id"] for item in log} <= {fact["id"] for fact in facts}:
                return log, facts
            await asyncio.sleep(0.3)


async def all_was_told(receiver: Receiver, log: list[Json], tasks: list[Json]) -> None:
    """The subscriber hears each chosen fact of these tasks as often as it was said; the last may be coming yet."""
    said = said_of(log, tasks)

    def told() -> dict[tuple[str, str], int]:
        return {key: receiver.taken["house"][key] for key in said}

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while told() != said:
                await asyncio.sleep(0.1)
    assert told() == said


def said_of(log: list[Json], tasks: list[Json]) -> dict[tuple[str, str], int]:
    """How often each was said: a task whose attempt was lost runs again; it is made once and succeeds once."""
    places = (
        (item["event"]["type"].split(".")[-2], item["event"]["subject"].removeprefix("task/")) for item in log
    )  # fmt: skip
    said, ids = Counter(places), [task["id"] for task in tasks]
    assert {said[fact, task] for task in ids for fact in ("created", "succeeded")} == {1}
    assert all(1 <= said["running", task] <= 1 + said["retrying", task] for task in ids)
    return {(fact, task): said[fact, task] for task in ids for fact in CHOSEN}


def judge(log: list[Json], facts: list[Json]) -> None:
    """Each fact of SQL is on the bus, once, in order for its noun; in SQL it stands once, too."""
    logged = Counter(item["event"]["id"] for item in log)
    assert set(logged.values()) == {1}
    ids = [fact["id"] for fact in facts]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    assert set(logged) <= set(ids)
    for place in (facts, [item["event"] for item in log]):
        versions = defaultdict[str, list[int]](list)
        for fact in place:
            versions[fact["subject"]].append(fact["nounversion"])
        for subject, seen in versions.items():
            assert seen == sorted(set(seen)), subject
            if subject.startswith("task/"):
                assert seen == list(range(1, len(seen) + 1)), subject
