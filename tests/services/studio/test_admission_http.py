"""Pools, flavours and quotas over HTTP: who may do what, what is refused with which code, what a task then says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.access import Role
from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_studio.pools.flavours import can_do, load_flavours, wrong_driver

GPU = {"name": "fast", "flavours": {"gpu": 2}, "driver": "550.54.15"}


async def key_of(studio: Rig, project: str, role: Role = Role.FULL) -> str:
    """A key of another project, made if it is not there."""

    def make(tx: Any) -> str:
        from finery_studio.projects import store

        found = store.project_named(tx.session, project)
        owner = found.id if found else studio.studio.keys.add_project(tx, project).id
        return str(studio.studio.keys.add_key(tx, owner, "ann", role=role, description="").secret)

    return await studio.write(make)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest_asyncio.fixture
async def dataset(studio: Rig) -> str:
    made = (await studio.upload()).id
    await studio.work()
    return made


async def tune(api: httpx.AsyncClient, dataset: str, **said: Any) -> httpx.Response:
    body = {"kind": "tune", "model": GALLERY_MODEL, "dataset": dataset, **said}
    return await api.post("/api/v1/tasks", json=body)


async def test_a_dedicated_pool_is_made_used_and_removed_by_its_project_alone(studio: Rig, dataset: str) -> None:
    stranger = await key_of(studio, "other")
    async with studio.http() as api, studio.http(stranger) as other:
        made = (await api.post("/api/v1/pools", json={"name": "own", "flavours": {"cpu": 1}})).json()
        assert (made["public"], made["used"], made["waiting"]) == (False, {"cpu": 0}, 0)
        assert [pool["name"] for pool in (await other.get("/api/v1/pools")).json()["data"]] == ["public"]
        for ref in ("own", made["id"]):
            assert code(await other.get(f"/api/v1/pools/{ref}")) == (404, "pool_not_found")
            gone = await other.delete(f"/api/v1/pools/{ref}", params={"confirm": "DELETE"})
            assert code(gone) == (404, "pool_not_found")
        assert (await other.post("/api/v1/pools", json={"name": "own", "flavours": {"cpu": 1}})).status_code == 201
        again = await api.post("/api/v1/pools", json={"name": "own", "flavours": {"cpu": 1}})
        assert code(again) == (409, "name_taken")

        task = (await tune(api, dataset, pool="own")).json()
        assert task["pool"] == made["id"]
        assert code(await api.delete("/api/v1/pools/own", params={"confirm": "DELETE"})) == (409, "pool_in_use")
        assert code(await api.delete("/api/v1/pools/own")) == (400, "confirm_missing")
        await api.post(f"/api/v1/tasks/{task['id']}/terminate")
        done = await api.delete("/api/v1/pools/own", params={"confirm": "DELETE"})
        assert done.json() == {"id": made["id"], "deleted": True}
        assert code(await tune(api, dataset, pool="own")) == (404, "pool_not_found")


async def test_roles_decide_who_makes_pools_and_sets_quotas(studio: Rig) -> None:
    async with studio.http(await key_of(studio, "p", Role.COMMON)) as common:
        assert (await common.get("/api/v1/pools")).status_code == 200
        assert code(await common.post("/api/v1/pools", json={"name": "a", "flavours": {"cpu": 1}})) == (
            403, "role_too_low",
        )  # fmt: skip
    async with studio.http(await key_of(studio, "p", Role.FULL)) as full:
        public = {"name": "a", "flavours": {"cpu": 1}, "public": True}
        assert code(await full.post("/api/v1/pools", json=public)) == (403, "role_too_low")
        assert code(await full.patch("/api/v1/pools/public", json={"flavours": {"cpu": 0}})) == (403, "role_too_low")
        assert code(await full.patch("/api/v1/quotas/p", json={"share": 9})) == (403, "role_too_low")
        assert [quota["project_name"] for quota in (await full.get("/api/v1/quotas")).json()["data"]] == ["p"]
    async with studio.http() as operator:
        made = (await operator.post("/api/v1/pools", json=public)).json()
        assert made["public"]
        kept = await operator.delete("/api/v1/pools/public", params={"confirm": "DELETE"})
        assert code(kept) == (409, "pool_needed")
        said = (await operator.patch("/api/v1/quotas/p", json={"share": 9, "running_slots": 3})).json()
        assert (said["share"], said["running_slots"], said["waiting_tasks"]) == (9, 3, 10_000)
        back = (await operator.patch("/api/v1/quotas/p", json={"share": None})).json()
        assert (back["share"], back["running_slots"]) == (1, 3)
        assert code(await operator.patch("/api/v1/quotas/nobody", json={})) == (404, "project_not_found")
        assert (await operator.patch("/api/v1/quotas/p", json={"running_slots": -1})).status_code == 400
        assert {q["project_name"] for q in (await operator.get("/api/v1/quotas")).json()["data"]} == {"default", "p"}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"driver": None}, (400, "driver_mismatch")),
        ({"driver": "520.1"}, (400, "driver_mismatch")),
        ({"driver": "new"}, (400, "driver_mismatch")),
        ({"flavours": {"tpu": 1}}, (400, "flavour_not_found")),
        ({"name": "1st"}, (400, "name_invalid")),
        ({"flavours": {}}, (400, "invalid_request")),
        ({"flavours": {"gpu": -1}}, (400, "invalid_request")),
    ],
)
async def test_a_pool_that_cannot_be_is_refused(studio: Rig, said: dict[str, Any], status: tuple[int, str]) -> None:
    async with studio.http() as api:
        answer = await api.post("/api/v1/pools", json={**GPU, **said})
        assert answer.status_code == status[0], answer.text
        if status[1] != "invalid_request":
            assert code(answer) == status
        assert len((await api.get("/api/v1/pools")).json()["data"]) == 1


async def test_a_task_that_no_place_can_do_is_refused_with_what_there_is(studio: Rig, dataset: str) -> None:
    async with studio.http() as api:
        assert (await api.post("/api/v1/pools", json=GPU)).status_code == 201
        nowhere = await tune(api, dataset, pool="nowhere")
        assert code(nowhere) == (404, "pool_not_found")
        assert "public, fast" in nowhere.json()["error"]["message"]
        unknown = await tune(api, dataset, flavour="gpu")
        assert code(unknown) == (400, "flavour_not_found")
        assert "it has cpu" in unknown.json()["error"]["message"]
        assert (await tune(api, dataset, pool="fast", flavour="gpu")).json()["price"] == "gpu"
        body = {"kind": "ingest", "dataset": dataset, "pool": "fast", "flavour": "gpu"}
        unfit = await api.post("/api/v1/tasks", json=body)
        assert code(unfit) == (400, "flavour_unfit")


async def test_a_waiting_task_says_why_and_in_which_place_on_its_page_and_in_the_list(
    studio: Rig, dataset: str
) -> None:
    async with studio.http() as api:
        await tune(api, dataset)
        await studio.work(TaskKind.IMPORT, TaskKind.VALIDATE, TaskKind.TUNE)
        for priority in (10, 90):
            await tune(api, dataset, priority=priority, name=f"p{priority}")
        await api.patch("/api/v1/pools/public", json={"flavours": {"cpu": 0}})
        listed = (await api.get("/api/v1/tasks", params={"state": "queued", "sort": "-priority"})).json()["data"]
        assert [(task["name"], task["place"]) for task in listed] == [("p90", 1), ("p10", 2)]
        assert "no free slot in pool public" in listed[1]["why_waiting"]
        assert (await api.get(f"/api/v1/tasks/{listed[1]['id']}")).json() == listed[1]
        assert code(await api.get("/api/v1/tasks", params={"sort": "name", "after": "x"})) == (400, "cursor_invalid")
        assert (await api.get("/api/v1/tasks", params={"sort": "weight"})).status_code == 400
        assert await studio.claim(TaskKind.TUNE) is None
        await api.patch("/api/v1/pools/public", json={"flavours": {"cpu": None}})
        assert (await studio.claim(TaskKind.TUNE)).task_id == listed[0]["id"]  # type: ignore[union-attr]


async def test_what_waits_for_other_tasks_names_those_that_are_still_to_come(studio: Rig) -> None:
    async with studio.http() as api:
        task = (await tune(api, (await studio.upload()).id)).json()
        needs = sorted(task["waits_for"])
        assert task["why_waiting"] == f"waiting for {', '.join(needs)}"
        path = f"/api/v1/tasks/{task['id']}"
        await api.post(f"{path}/pause")
        resumed = (await api.post(f"{path}/resume")).json()
        assert (resumed["state"], resumed["why_waiting"]) == ("created", task["why_waiting"])

        await studio.end(await studio.claim(TaskKind.INGEST))  # type: ignore[arg-type]
        ended = (await api.get("/api/v1/tasks", params={"kind": "ingest"})).json()["data"][0]["id"]
        left = [needed for needed in needs if needed != ended]
        assert (await api.get(path)).json()["why_waiting"] == f"waiting for {', '.join(left)}" != task["why_waiting"]
        (listed,) = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]
        assert listed["why_waiting"] == f"waiting for {', '.join(left)}"


async def test_a_project_over_its_quota_is_told_to_wait(studio: Rig, dataset: str) -> None:
    async with studio.http() as api:
        await api.patch("/api/v1/quotas/default", json={"waiting_tasks": 0})
        answer = await tune(api, dataset)
        assert code(answer) == (429, "quota_reached")
        assert int(answer.headers["retry-after"]) > 0


async def test_only_flavours_that_can_do_it_are_offered(studio: Rig) -> None:
    async with studio.http() as api:
        asked = {"kind": "ingest"}
        able = [flavour["name"] for flavour in (await api.get("/api/v1/flavours", params=asked)).json()["data"]]
        assert able == ["cpu", "cpu-large"]
        offered = (await api.get("/api/v1/flavours", params={"pool": "public"})).json()["data"]
        assert [flavour["name"] for flavour in offered] == ["cpu"]


# --- the flavours file ------------------------------------------------------------------------------------------------


def test_an_operators_file_adds_and_replaces_flavours(tmp_path: Path) -> None:
    file = tmp_path / "flavours.yaml"
    file.write_text(
        "flavours:\n  cpu: {title: small, memory_gb: 1, methods: [lora]}\n  npu: {title: n, memory_gb: 64}\n"
    )
    flavours = load_flavours(file)
    assert {"cpu", "gpu", "npu"} <= flavours.keys()
    assert can_do(flavours["cpu"], TaskKind.TUNE, method="full") == "it tunes by lora, not by full"
    assert can_do(flavours["cpu"], TaskKind.TUNE, method="lora") is None
    assert "2.0 GB" in str(can_do(flavours["cpu"], TaskKind.EVALUATE, parameters=1_000_000_000))


@pytest.mark.parametrize(
    "text",
    ["flavours: {x: {title: t, memory_gb: 1, slots: 0}}", "flavours: {X: {title: t, memory_gb: 1}}", "flavours: [",
     "flavours: {x: {title: t, memory_gb: 1, driver: newest}}", "flavours: {x: {title: t, colour: red}}"],
)  # fmt: skip
def test_a_faulty_file_stops_the_start_and_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=r"mine\.yaml") as refused:
        load_flavours(file)
    assert refused.value.error_code == "flavours_invalid"


def test_the_driver_is_compared_as_a_version_and_not_as_text() -> None:
    flavours = load_flavours()
    assert wrong_driver({"gpu": 1}, flavours, "1000.1") is None
    assert wrong_driver({"cpu": 1}, flavours, None) is None
    assert "needs a driver >=535" in str(wrong_driver({"gpu": 1}, flavours, "90.0"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "tune", "priority": 101}, "priority"), ({"kind": "tune", "auto_stop_s": 59}, "auto_stop_s"),
        ({"kind": "evaluate", "keep_logs": "../../etc"}, "keep_logs"), ({"kind": "ingest", "priorty": 1}, "priorty"),
        ({"kind": "dance"}, "kind"), ({"kind": ["tune"]}, "kind"), ({}, "kind"),
    ],
)  # fmt: skip
async def test_a_faulty_task_is_refused_with_the_place_as_it_was_written(
    studio: Rig, dataset: str, body: dict[str, Any], param: str
) -> None:
    whole = {"model": GALLERY_MODEL, "dataset": dataset} if body.get("kind") != "ingest" else {"dataset": dataset}
    async with studio.http() as api:
        answer = await api.post("/api/v1/tasks", json={**whole, **body})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
