"""The thinnest thread and its neighbours: HTTP in, claim, engine, facts, ledger, webhook; with a real broker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from aiohttp import web

from finery.webhooks import verify
from finery_kit.ports import free_port
from tests.flows.conftest import ended

GOOD, BAD = b'{"messages": []}\n', b"bad\n"


async def upload(api: httpx.AsyncClient, body: bytes = GOOD, name: str = "train.jsonl") -> dict[str, Any]:
    answer = await api.post("/v1/files", files={"file": (name, body)}, data={"purpose": "fine-tune"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def tune(api: httpx.AsyncClient, file: str, **said: Any) -> httpx.Response:
    return await api.post(
        "/v1/fine_tuning/jobs", json={"model": "smollm2-135m-instruct", "training_file": file, **said}
    )


async def test_a_job_goes_through_the_house_and_leaves_a_published_model(api: httpx.AsyncClient) -> None:
    file = await upload(api)

    job = (await tune(api, file["id"], suffix="desk", metadata={"team": "a"}, seed=7)).json()
    assert job["status"] == "validating_files"
    task = await ended(api, job["x_finery"]["task"])

    assert task["state"] == "succeeded", task["error"]
    told = (await api.get(f"/v1/fine_tuning/jobs/{job['id']}")).json()
    assert told["fine_tuned_model"].startswith("ft:smollm2-135m-instruct:default:desk:")
    assert told["seed"] == 7
    assert told["metadata"] == {"team": "a"}
    assert told["trained_tokens"] == 100
    names = {model["id"] for model in (await api.get("/v1/models")).json()["data"]}
    assert told["fine_tuned_model"] in names


async def test_bad_data_fails_the_job_that_waits_for_it_with_its_line(api: httpx.AsyncClient) -> None:
    file = await upload(api, BAD)

    job = (await tune(api, file["id"])).json()
    task = await ended(api, job["x_finery"]["task"])

    assert task["error"]["code"] == "invalid_training_file"
    assert task["error"]["param"] == "training_file"
    assert task["error"]["details"][0]["line"] == 17
    told = (await api.get(f"/v1/files/{file['id']}")).json()
    assert told["status"] == "error"


async def test_every_state_change_is_a_fact_in_order_with_growing_versions(api: httpx.AsyncClient) -> None:
    job = (await tune(api, (await upload(api))["id"])).json()
    task = await ended(api, job["x_finery"]["task"])

    log = (await api.get("/api/v1/events", params={"noun": task["id"], "limit": 1000})).json()["data"]

    log = [entry for entry in log if entry["event"]["subject"] == f"task/{task['id']}"]  # its charge may be there, too
    facts = [entry["event"]["type"].split(".")[3] for entry in log]
    assert facts == ["created", "queued", "preparing", "running", "attempt_ended", "succeeded"]
    versions = [entry["event"]["nounversion"] for entry in log]
    assert versions == sorted(set(versions))


async def test_running_time_becomes_one_ledger_line(api: httpx.AsyncClient) -> None:
    job = (await tune(api, (await upload(api))["id"])).json()
    task = await ended(api, job["x_finery"]["task"])

    async with asyncio.timeout(10):
        while not (lines := await _lines(api, task["id"])):
            await asyncio.sleep(0.05)

    assert len(lines) == 1
    assert float(lines[0]["amount"]) > 0
    ran = task["attempts"][0]["running_s"]
    assert abs(float(lines[0]["quantity"]) * 3600 - ran) < 1e-3


async def _lines(api: httpx.AsyncClient, noun: str) -> list[dict[str, Any]]:
    return (await api.get("/api/v1/bill/lines", params={"noun_id": noun})).json()["data"]


async def test_a_confirmed_webhook_hears_signed_facts_of_its_topic_in_order(api: httpx.AsyncClient) -> None:
    heard: list[tuple[bytes, dict[str, str]]] = []
    url, runner = await listen(api, heard)
    try:
        await api.post("/api/v1/topics", json={"name": "jobs"})
        made = (await api.post("/api/v1/subscriptions", json={"topic": "jobs", "url": url})).json()
        await confirmed(api, made["id"])

        file = await upload(api)
        extra = {"notify": {"topic": "jobs", "events": ["running", "succeeded"]}}
        job = (await tune(api, file["id"], x_finery=extra)).json()
        await ended(api, job["x_finery"]["task"])
        async with asyncio.timeout(10):
            while len(heard) < 2:
                await asyncio.sleep(0.05)
    finally:
        await runner.cleanup()

    events = [verify(body, headers, made["secret"]) for body, headers in heard]
    assert [event.type for event in events] == ["io.finery.task.running.v1", "io.finery.task.succeeded.v1"]
    assert all("traceparent" in {name.lower() for name in headers} for _, headers in heard)


async def listen(api: httpx.AsyncClient, heard: list[tuple[bytes, dict[str, str]]]) -> tuple[str, web.AppRunner]:
    """A subscriber that opens the confirmation's link and keeps what comes."""

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "POST":
            data = json.loads(body)
            if data["type"] == "io.finery.subscription.confirmation.v1":
                asyncio.get_running_loop().create_task(api.get(data["data"]["confirm_url"]))
            else:
                heard.append((body, dict(request.headers)))
        return web.Response(status=200 if request.method == "POST" else 405)

    app = web.Application()
    app.router.add_route("*", "/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return f"http://127.0.0.1:{port}/hook", runner


async def confirmed(api: httpx.AsyncClient, subscription: str) -> None:
    async with asyncio.timeout(10):
        while (await api.get(f"/api/v1/subscriptions/{subscription}")).json()["state"] != "confirmed":
            await asyncio.sleep(0.05)


async def test_one_trace_joins_the_call_the_services_and_the_engine(api: httpx.AsyncClient) -> None:
    job = (await tune(api, (await upload(api))["id"])).json()
    task = await ended(api, job["x_finery"]["task"])

    wanted = {"finery-studio", "finery-trainer", "finery-weight-validator", "finery-billing-meter"}
    async with asyncio.timeout(15):  # each service sends its spans in batches
        while True:
            spans = (await api.get(f"/api/v1/tasks/{task['id']}/trace")).json()["spans"]
            known = {span["span_id"] for span in spans}
            roots = [span["name"] for span in spans if span["parent_id"] not in known]
            if roots == ["POST /v1/fine_tuning/jobs"] and wanted <= {span["service"] for span in spans}:
                break
            await asyncio.sleep(0.2)

    by_name = {span["name"]: span for span in spans}
    assert by_name["engine.tune"]["parent_id"] == by_name["attempt tune"]["span_id"]


async def test_terminating_a_running_task_keeps_its_checkpoint(api: httpx.AsyncClient, monkeypatch: Any) -> None:
    monkeypatch.setenv("QUICK_TUNE_S", "30")
    job = (await tune(api, (await upload(api))["id"])).json()
    await _running(api, job["x_finery"]["task"])

    told = (await api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")).json()

    assert told["status"] == "cancelled"
    listed = (await api.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")).json()["data"]
    assert listed
    assert (await api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")).status_code == 409


async def _running(api: httpx.AsyncClient, task_id: str) -> None:
    async with asyncio.timeout(20):
        while (await api.get(f"/api/v1/tasks/{task_id}")).json()["state"] != "running":
            await asyncio.sleep(0.05)


async def test_two_jobs_over_one_connection_have_two_traces(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    jobs = [(await tune(api, file["id"])).json() for _ in range(2)]

    traces = {(await api.get(f"/api/v1/tasks/{job['x_finery']['task']}/trace")).json()["trace_id"] for job in jobs}

    assert len(traces) == 2
