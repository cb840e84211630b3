"""A house that stops and starts again on its home: nothing is forgotten, doubled or left half-done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.embedded import Options, house
from finery_kit.ports import free_port
from tests.flows.conftest import QuickExecutor, ended
from tests.flows.test_main_thread import BAD, tune, upload

LISTS = ("/v1/files", "/v1/models", "/api/v1/models", "/api/v1/tasks", "/api/v1/deployments", "/api/v1/keys",
         "/api/v1/topics", "/api/v1/projects")  # fmt: skip


async def told(api: httpx.AsyncClient) -> dict[str, Any]:
    """Everything that lists show."""
    return {path: (await api.get(path)).json()["data"] for path in LISTS}


async def bill_lines(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    return (await api.get("/api/v1/bill/lines", params={"limit": 100})).json()["data"]


async def quiet(api: httpx.AsyncClient, lines: int) -> list[dict[str, Any]]:
    """The event log, once models are signed and the ledger has followed; what it says of its lines is there, too."""
    async with asyncio.timeout(10):
        while True:
            log = (await api.get("/api/v1/events", params={"limit": 1000})).json()["data"]
            charged = [e["event"]["data"] for e in log if e["event"]["type"] == "io.finery.billing.charged.v1"]
            models = (await api.get("/api/v1/models")).json()["data"]
            signed = all(model["certificate"] for model in models if model["state"] == "ready")
            if signed and sum(len(data["lines"]) for data in charged) >= lines:
                return (await api.get("/api/v1/events", params={"limit": 1000})).json()["data"]
            await asyncio.sleep(0.05)


async def test_a_restart_changes_nothing_that_anybody_can_see(
    tmp_path: Path, house_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    options = Options(home=tmp_path / "home", port=free_port())

    async with house(options) as first, client(first) as api:
        await api.post("/api/v1/topics", json={"name": "jobs"})
        other = (await api.post("/api/v1/projects", json={"name": "other"})).json()
        key = (await api.post("/api/v1/keys", json={"description": "d"})).json()["secret"]
        bad = (await tune(api, (await upload(api, BAD))["id"])).json()
        good = (await tune(api, (await upload(api))["id"], suffix="desk")).json()
        for job in (bad, good):
            await ended(api, job["x_finery"]["task"])
        tasks = (await api.get("/api/v1/tasks")).json()["data"]
        ran = [a for task in tasks for a in task["attempts"] if a["running_s"] > 0]
        log, before, lines = await quiet(api, len(ran)), await told(api), await bill_lines(api)

    async with house(options) as second, client(second) as api:
        again = await quiet(api, len(ran))
        assert (second.api_key, second.nats_url, second.project) == (first.api_key, first.nats_url, first.project)
        assert await told(api) == before
        assert await bill_lines(api) == lines
        assert again == log
        for secret, project in ((key, first.project), (other["key"]["secret"], other["id"])):
            me = (await api.get("/api/v1/me", headers={"authorization": f"Bearer {secret}"})).json()
            assert me["project"] == project
        assert {job["status"] for job in (await api.get("/v1/fine_tuning/jobs")).json()["data"]} == {
            "failed", "succeeded",
        }  # fmt: skip
        more = (await tune(api, good["training_file"])).json()  # and it goes on
        assert (await ended(api, more["x_finery"]["task"]))["state"] == "succeeded"


async def test_an_engine_that_never_works_is_given_up_after_its_attempts_and_costs_nothing(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await upload(api)
    await ended(api, file["x_finery"]["task"])
    monkeypatch.setenv("QUICK_TUNE_S", "no number")
    job = (await tune(api, file["id"])).json()

    task = await ended(api, job["x_finery"]["task"])

    assert (task["state"], task["error"]["code"]) == ("failed", "engine_crashed")
    assert [attempt["reason"] for attempt in task["attempts"]] == ["crashed"] * 3
    assert "could not convert string to float" in "\n".join(task["error"]["details"][0]["log"])
    assert [line for line in await bill_lines(api) if line["noun_id"] == task["id"]] == []


def client(ready: Any) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {ready.api_key}"}
    return httpx.AsyncClient(base_url=ready.url, headers=headers, timeout=30)
