"""Estimates and costs over HTTP: a pool is named as a task names it, and what is not there is not said to be free."""

from __future__ import annotations

from typing import Any

from studio_posts import BILLED
from studio_rig import Rig

from finery_contracts.errors import NotFound
from finery_studio.edge import forward


async def test_a_pool_is_named_by_name_or_id_and_must_be_there(studio: Rig) -> None:
    asked: list[dict[str, Any]] = []

    async def meter(_owner: str, _verb: str, body: Any, _answer: Any, **_: Any) -> forward.Anything:
        asked.append(body.root)
        return forward.Anything(BILLED["estimate"])

    studio.studio._ask = forward.Ask(meter)
    async with studio.http() as api:
        shared = {"name": "shared", "flavours": {"cpu": 1}, "public": True}
        pool = (await api.post("/api/v1/pools", json=shared)).json()["id"]

        for name in ("shared", pool, "public"):
            assert (await api.post("/api/v1/estimates", json={"seconds": 60, "pool": name})).status_code == 200
        missing = await api.post("/api/v1/estimates", json={"seconds": 60, "pool": "nowhere"})

    assert [body["pool"] for body in asked] == [pool, pool, "public"]
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "pool_not_found")


async def test_what_is_not_there_has_no_cost_and_what_was_deleted_keeps_its_own(studio: Rig) -> None:
    costs = {"task_gone": "0.12"}

    async def meter(owner: str, verb: str, body: Any, _answer: Any, **_: Any) -> forward.Anything:
        if owner == "deployer":
            raise NotFound("there is no such deployment", code="deployment_not_found")
        assert verb == "cost"
        amount = costs.get(body.root["noun_id"], "0")
        return forward.Anything({"amount": amount, "charged": amount, "running": "0", "currency": "USD"})

    studio.studio._ask = forward.Ask(meter)
    task = (await studio.dataset((await studio.upload()).id)).task
    async with studio.http() as api:
        found = {name: await api.get(f"/api/v1/cost/{name}") for name in (task, "task_gone", "task_nope", "dep_nope")}

    told = {name: (answer.json().get("error") or {}).get("code") for name, answer in found.items()}
    assert told == {
        task: None, "task_gone": None, "task_nope": "task_not_found", "dep_nope": "deployment_not_found",
    }  # fmt: skip
