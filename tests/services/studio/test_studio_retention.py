"""What goes by policy: temporary models after notice, logs of ended tasks unless they are to be kept for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from finery_contracts.errors import NotFound
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import TaskView
from finery_kit.testing import VirtualClock
from finery_studio.tasks import logs
from finery_studio.tasks import store as task_store
from tests.services.studio.studio_rig import Rig, studio_rig

DAY_S = 86_400


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def studio(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Rig]:
    rig = await studio_rig(tmp_path, clock=clock)
    yield rig
    rig.studio.database.close()


async def tuned(studio: Rig, **said: object) -> TaskView:
    """A finished tuning with a temporary model."""
    dataset = await studio.upload()
    task = await studio.tune(dataset.id, **said)
    await studio.work()
    return await studio.task(task.id)


async def pass_days(studio: Rig, clock: VirtualClock, days: float) -> None:
    clock.advance(days * DAY_S)
    await studio.write(studio.studio.models.expire)


async def test_a_temporary_model_goes_after_two_notices(studio: Rig, clock: VirtualClock) -> None:
    model = (await tuned(studio)).result["model"]
    told = []
    for _ in range(16):
        await pass_days(studio, clock, 1)
        told.append((await studio.said(model))[-1])
    assert told == ["model.ready"] * 11 + ["model.expires_soon"] * 3 + ["model.deleted"] * 2
    assert (await studio.said(model)).count("model.expires_soon") == 2
    with pytest.raises(NotFound):
        await studio.model(model)


async def test_an_operators_own_policy_is_followed(tmp_path: Path, clock: VirtualClock, database_url: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("temporary_model_days: 5\ntemporary_model_notice_days: [2]\nlogs_days: 3\n")
    studio = await studio_rig(tmp_path, clock=clock, retention_file=policy, database_url=database_url)
    task = await tuned(studio)
    model, file, told = task.result["model"], write_log(studio, task), []
    for _ in range(5):
        await pass_days(studio, clock, 1)
        told.append((await studio.said(model))[-1])
        looking = asyncio.create_task(studio.studio.loops.logs_loop())
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while file.exists() and len(told) > 3:
                await asyncio.sleep(0.02)
        assert file.exists() is (len(told) <= 3)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert told == ["model.ready"] * 2 + ["model.expires_soon"] * 2 + ["model.deleted"]
    await asyncio.to_thread(studio.studio.database.close)


async def test_notices_that_an_outage_held_up_are_one(studio: Rig, clock: VirtualClock) -> None:
    model = (await tuned(studio)).result["model"]
    await pass_days(studio, clock, 14.5)
    await pass_days(studio, clock, 0.1)
    assert (await studio.said(model)).count("model.expires_soon") == 1
    assert (await studio.model(model)).notices == [3, 1]


async def test_publishing_saves_it(studio: Rig, clock: VirtualClock) -> None:
    model = (await tuned(studio)).result["model"]
    await pass_days(studio, clock, 14.5)
    await studio.write(lambda tx: studio.studio.models.publish(tx, studio.actor.project, model, "kept"))
    await pass_days(studio, clock, 1000)
    assert (await studio.model("kept")).published
    assert "model.deleted" not in await studio.said(model)


async def test_a_model_that_a_task_uses_waits_for_it(studio: Rig, clock: VirtualClock) -> None:
    model = (await tuned(studio)).result["model"]
    dataset = await studio.upload(sha="b" * 64)
    async with studio.http() as api:
        body = {"kind": "evaluate", "model": model, "dataset": dataset.id}
        assert (await api.post("/api/v1/tasks", json=body)).status_code == 201
    await pass_days(studio, clock, 20)
    assert await studio.model(model)
    while claim := await studio.claim():
        await studio.end(claim)
    await pass_days(studio, clock, 0)
    with pytest.raises(NotFound):
        await studio.model(model)


def write_log(studio: Rig, task: TaskView) -> Path:
    file = studio.studio.storage.root / task.project / "tasks" / task.id / "1" / "left" / "log.txt"
    file.parent.mkdir(parents=True)
    file.write_text("first\nlast\n")
    return file


async def chores(studio: Rig, clock: VirtualClock) -> list[str]:
    """Do what is due; what it was."""
    done = []
    while todo := await studio.read(lambda s: logs.chores(s, clock(), days=30)):
        for chore in todo:
            logs.carry_out(chore, studio.studio.storage)
            await studio.write(lambda tx, c=chore: logs.settle(tx, c))
            done.append(f"{chore.task.id}:{chore.becomes}")
    return done


async def test_logs_go_after_thirty_days(studio: Rig, clock: VirtualClock) -> None:
    task = await tuned(studio)
    file = write_log(studio, task)
    clock.advance(29 * DAY_S)
    assert await chores(studio, clock) == []
    clock.advance(2 * DAY_S)
    assert f"{task.id}:gone" in await chores(studio, clock)
    assert not file.exists()
    assert await chores(studio, clock) == []


async def test_logs_that_are_to_be_kept_are_archived_at_once_and_stay(studio: Rig, clock: VirtualClock) -> None:
    task = await tuned(studio, keep_logs="team-a/nightly")
    file = write_log(studio, task)
    assert await chores(studio, clock) == [f"{task.id}:kept"]
    clock.advance(1000 * DAY_S)
    await chores(studio, clock)
    assert not file.exists()
    assert list(logs.archived_lines(task, studio.studio.storage)) == [(1, "first"), (1, "last")]


@pytest.mark.parametrize("path", ["/etc", "../other", "a/../../b", "a//b", "a b", "", "a/", "."])
async def test_an_archive_path_stays_in_the_archive(studio: Rig, path: str) -> None:
    dataset = await studio.upload()
    body = {"kind": "tune", "model": "smollm2-135m-instruct", "dataset": dataset.id, "keep_logs": path}
    async with studio.http() as api:
        answer = await api.post("/api/v1/tasks", json=body)
    assert (answer.status_code, answer.json()["error"]["param"].split(".")[-1]) == (400, "keep_logs")


async def test_a_deleted_task_leaves_neither_log_nor_checkpoint_nor_row(studio: Rig) -> None:
    task = await tuned(studio)
    file = write_log(studio, task)
    checkpoint = file.parents[1] / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    async with studio.http() as api:
        assert (await api.delete(f"/api/v1/tasks/{task.id}")).json()["error"]["code"] == "confirm_missing"
        gone = await api.delete(f"/api/v1/tasks/{task.id}", params={"confirm": "DELETE"})
        assert gone.json() == {"id": task.id, "deleted": True}
        assert (await api.get(f"/api/v1/tasks/{task.id}")).status_code == 404
    assert (await studio.said(task.id))[-1] == "task.deleted"
    assert not file.exists()
    assert not checkpoint.exists()


async def test_claims_are_forgotten(studio: Rig, clock: VirtualClock) -> None:
    await studio.upload()
    first = await studio.claim(TaskKind.INGEST, request_id="r")
    assert first == await studio.claim(TaskKind.INGEST, request_id="r")
    clock.now += timedelta(hours=2)
    await studio.write(task_store.forget_claims)
    assert await studio.claim(TaskKind.INGEST, request_id="r") is None
