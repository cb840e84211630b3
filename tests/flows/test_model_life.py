"""A model's whole life in a running house: tuned, published, merged, versioned, carried to another project, deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.flows.conftest import ended


async def model_when(client: httpx.AsyncClient, ref: str, **wanted: Any) -> dict[str, Any]:
    """The model, once its view says all that."""
    async with asyncio.timeout(30):
        while True:
            view = (await client.get(f"/api/v1/models/{ref}")).json()
            if all(view.get(name) == value for name, value in wanted.items()):
                return view
            await asyncio.sleep(0.05)


async def signed(client: httpx.AsyncClient, ref: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while not (view := (await client.get(f"/api/v1/models/{ref}")).json()).get("certificate"):
            await asyncio.sleep(0.05)
        return view


def place(store: Path, url: str) -> Path:
    return store / url.removeprefix("store://")


async def gone(path: Path) -> None:
    async with asyncio.timeout(30):
        while path.exists():
            await asyncio.sleep(0.1)


async def other_project(client: httpx.AsyncClient) -> httpx.AsyncClient:
    made = (await client.post("/api/v1/projects", json={"name": "other"})).json()
    return httpx.AsyncClient(
        base_url=client.base_url, headers={"authorization": f"Bearer {made['key']['secret']}"}, timeout=30
    )


async def tuned(client: httpx.AsyncClient) -> tuple[dict[str, Any], str]:
    """A temporary model and the dataset it was tuned on."""
    files, data = {"file": ("a.jsonl", b'{"messages": []}')}, {"purpose": "fine-tune"}
    dataset = (await client.post("/v1/files", files=files, data=data)).json()["x_finery"]["dataset"]
    body = {"kind": "tune", "model": "smollm2-135m-instruct", "dataset": dataset}
    task = await ended(client, (await client.post("/api/v1/tasks", json=body)).json()["id"])
    assert task["state"] == "succeeded", task
    return (await client.get(f"/api/v1/models/{task['result']['model']}")).json(), dataset


async def publish(client: httpx.AsyncClient, ref: str, **said: Any) -> dict[str, Any]:
    answer = await client.post(f"/api/v1/models/{ref}/publish", json=said)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_from_tuning_to_the_last_byte(api: httpx.AsyncClient, tmp_path: Path) -> None:
    store = tmp_path / "home" / "store"
    temporary, dataset = await tuned(api)
    assert (temporary["published"], temporary["expires_at"] > temporary["created_at"]) == (False, True)

    # a kept checkpoint, then a merged one as the next version of the same name
    early = await publish(api, temporary["id"], name="mine", step=2)
    adapter = place(store, early["adapter"])
    assert (adapter / "adapter_model.safetensors").read_text() == "weights of step 2"
    whole = await publish(api, temporary["id"], name="mine", step=1, form="merged", new_version=True)
    assert (await ended(api, whole["tasks"][-1]))["state"] == "succeeded"
    whole = await model_when(api, "mine", number=2, state="ready")
    weights = place(store, whole["weights"])
    assert (weights / "model.safetensors").read_text() == "{} with weights of step 1"
    listed = (await api.get("/api/v1/models/mine/versions")).json()["data"]
    assert [(version["number"], version["current"]) for version in listed] == [(2, True), (1, False)]

    # out as one file, into another project; then everything of the first project goes
    await signed(api, "mine@1")
    whole = await signed(api, "mine")
    async with await other_project(api) as other:
        await carry(api, whole, other)
        await api.post("/api/v1/models/mine@1/current")
        for ref in ("mine@2", "mine@1", temporary["id"], temporary["base"]):
            answer = await api.delete(f"/api/v1/models/{ref}", params={"confirm": "DELETE"})
            assert answer.status_code == 200, answer.text
        await api.delete(f"/api/v1/datasets/{dataset}", params={"confirm": "DELETE"})
        project = place(store, whole["weights"].split("/tasks/")[0])
        for path in (weights, adapter, place(store, temporary["weights"]), *project.glob("blobs/*")):
            await gone(path)
        async with asyncio.timeout(30):
            while any(path.is_file() and not _of_the_task_itself(path) for path in project.rglob("*")):
                await asyncio.sleep(0.1)

        exported = await other.get("/api/v1/models/mine/export")
        assert exported.status_code == 200, "the other project lost nothing"


async def carry(client: httpx.AsyncClient, model: dict[str, Any], other: httpx.AsyncClient) -> None:
    """Another project takes the model in."""
    bundle = (await client.get(f"/api/v1/models/{model['id']}/export")).content
    copied = await other.post("/api/v1/models/import-bundle", files={"file": ("m.tar", bundle)})
    assert copied.status_code == 201, copied.text
    copy = await model_when(other, "mine", state="ready")
    assert copy["certificate"]["digest"] == model["certificate"]["digest"]


def _of_the_task_itself(path: Path) -> bool:
    """Logs and results of tasks age by their own rule."""
    return path.parent.name == "left" and path.name in ("log.txt", "progress.jsonl", "result.json")
