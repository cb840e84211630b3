"""What people do to tasks, through the public surface: pause, resume, copy, delete, for every kind of task."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.flows.conftest import ended
from tests.flows.test_main_thread import tune, upload
from tests.flows.test_retries import with_checkpoints


async def post(api: httpx.AsyncClient, task: str, verb: str, **body: Any) -> httpx.Response:
    return await api.post(f"/api/v1/tasks/{task}/{verb}", json=body or None)


async def in_phase(api: httpx.AsyncClient, task_id: str, phase: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            task = (await api.get(f"/api/v1/tasks/{task_id}")).json()
            if task["phase"] == phase:
                return task
            await asyncio.sleep(0.05)


async def history(api: httpx.AsyncClient, noun: str) -> list[str]:
    rows = (await api.get("/api/v1/events", params={"noun": noun, "limit": 1000})).json()["data"]
    return [row["event"]["type"].removeprefix("io.finery.").removesuffix(".v1") for row in rows]


async def test_a_running_task_pauses_saves_and_goes_on_where_it_was(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_TUNE_S", "2")
    task_id = (await tune(api, (await upload(api))["id"])).json()["x_finery"]["task"]
    await with_checkpoints(api, task_id, 5)

    assert (await post(api, task_id, "pause")).status_code == 200
    paused = await in_phase(api, task_id, "paused")
    assert (paused["state"], paused["attempts"][0]["reason"]) == ("running", "paused")
    done = paused["checkpoints"][-1]["step"]
    again = await post(api, task_id, "pause")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "task_paused")

    assert (await post(api, task_id, "resume")).json()["phase"] == "waiting"
    task = await ended(api, task_id)

    assert (task["state"], [a["reason"] for a in task["attempts"]]) == ("succeeded", ["paused", "succeeded"])
    points = (await api.get(f"/api/v1/tasks/{task_id}/metrics")).json()["data"]
    assert min(p["step"] for p in points if p["attempt"] == 2) == done + 1
    said = await history(api, task_id)
    assert [fact for fact in said if fact.startswith("task.")].index("task.paused") < said.index("task.resumed")
    assert "task.move_refused" in said
    assert task["running_s"] == pytest.approx(sum(a["running_s"] for a in task["attempts"]))


async def test_every_kind_can_be_copied_and_deleted(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    task_id = (await tune(api, file["id"])).json()["x_finery"]["task"]
    await ended(api, task_id)
    evaluation = {"kind": "evaluate", "model": "smollm2-135m-instruct", "dataset": file["x_finery"]["dataset"]}
    made = (await api.post("/api/v1/tasks", json={**evaluation, "auto_stop_s": 3600, "priority": 70})).json()
    await ended(api, made["id"])
    tasks = {task["kind"]: task for task in (await api.get("/api/v1/tasks")).json()["data"]}
    assert tasks.keys() == {"ingest", "import", "validate", "tune", "evaluate"}

    for kind, task in tasks.items():
        edits = {"model": "another"} if kind == "import" else {"priority": 80}
        answer = await post(api, task["id"], "copy", **edits)
        assert answer.status_code == 201, answer.text
        copy = await ended(api, answer.json()["id"])
        assert (copy["kind"], copy["state"]) == (kind, "succeeded")
        assert copy["id"] != task["id"]
        assert kind == "import" or copy["priority"] == 80
        assert copy["auto_stop_s"] == task["auto_stop_s"]

    for task in tasks.values():
        gone = await api.delete(f"/api/v1/tasks/{task['id']}", params={"confirm": "DELETE"})
        assert gone.status_code == 200
        assert (await history(api, task["id"]))[-1] == "task.deleted"
    assert (await api.get(f"/api/v1/tasks/{task_id}")).status_code == 404


@pytest.mark.parametrize("verb", ["terminate", "pause", "resume"])
async def test_what_has_ended_is_not_moved_and_the_refusal_stands_in_its_history(
    api: httpx.AsyncClient, verb: str
) -> None:
    task = (await upload(api))["x_finery"]["task"]
    before = await ended(api, task)

    answer = await post(api, task, verb)

    assert answer.status_code == 409
    after = (await api.get(f"/api/v1/tasks/{task}")).json()
    assert after == {**before, "version": before["version"] + 1}
    rows = (await api.get("/api/v1/events", params={"noun": task, "limit": 1000})).json()["data"]
    last = [row["event"] for row in rows if row["event"]["type"].startswith("io.finery.task.")][-1]
    assert last["data"]["asked"] == verb
    assert last["data"]["error"]["code"] == answer.json()["error"]["code"]
