"""Idempotency-Key on every POST of studio's surface: the same answer again, no second effect, nothing for strangers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import func, select
from studio_posts import SENT, WITHOUT_KEY, Owner, some_task, tuning, under
from studio_rig import GALLERY_MODEL, Rig, studio_rig

from finery_contracts.errors import Conflict, Unavailable
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason
from finery_kit.delivery import OutboxRow
from finery_kit.delivery_tables import IdempotencyRow
from finery_studio.edge.wishes import KEY_HEADER, REPLAYED_HEADER


def with_key(said: dict[str, Any], key: dict[str, str]) -> dict[str, Any]:
    return {**said, "headers": {**said.get("headers", {}), **key}}


def posts(studio: Rig) -> set[str]:
    paths = studio.studio.http().openapi()["paths"]
    return {path for path, operations in paths.items() if "post" in operations} - WITHOUT_KEY


async def facts(studio: Rig) -> int:
    return await studio.read(lambda session: session.exec(select(func.count()).select_from(OutboxRow)).one())


def test_every_post_takes_a_key(studio: Rig) -> None:
    paths = studio.studio.http().openapi()["paths"]
    deaf = [
        path for path in posts(studio)
        if KEY_HEADER not in [parameter["name"] for parameter in paths[path]["post"].get("parameters", [])]
    ]  # fmt: skip
    assert deaf == []


def test_every_post_is_tried_below(studio: Rig) -> None:
    assert posts(studio) == SENT.keys()


async def test_the_same_post_again_is_answered_alike_and_changes_nothing(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        for path, make in SENT.items():
            sent, key = await make(studio), under(f"k {path}")
            first = await api.post(sent.path, **with_key(sent.said, key))
            assert (first.status_code in (200, 201, 202), REPLAYED_HEADER in first.headers) == (True, False), first.text
            before, asked = await facts(studio), len(owner.done)

            again = await api.post(sent.path, **with_key(sent.said, key))
            other = await api.post(sent.path, **with_key(sent.other, key))
            elsewhere = await api.post("/api/v1/topics", json={"name": "elsewhere"}, headers=key)

            assert (again.status_code, again.content) == (first.status_code, first.content), path
            assert (await facts(studio), len(owner.done)) == (before, asked), path
            for refused in (other, elsewhere):
                assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused"), path


async def test_a_key_that_is_none_is_refused_on_every_post(studio: Rig, owner: Owner) -> None:
    wrong = [
        [(KEY_HEADER, "x" * 256)],
        [(KEY_HEADER, "a\tb")],
        [(KEY_HEADER, "")],
        [(KEY_HEADER, "a"), (KEY_HEADER, "b")],
    ]
    async with studio.http() as api:
        answers = [await api.post(path, headers=headers) for path in posts(studio) for headers in wrong]
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(400, "idempotency_key_invalid")}
    assert owner.asked == []


async def test_two_hundred_equal_posts_at_once_make_one_task(studio: Rig) -> None:
    sent = await tuning(studio)
    before = len(await studio.said())
    async with studio.http() as api:

        async def insist() -> httpx.Response:
            while (answer := await api.post(sent.path, headers=under("one"), **sent.said)).status_code == 409:
                assert answer.json()["error"]["code"] == "request_in_progress"
                assert answer.headers["retry-after"] == "1"
                await asyncio.sleep(0.5)
            return answer

        answers = await asyncio.gather(*(insist() for _ in range(200)))
        tasks = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]

    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert [task["id"] for task in tasks] == [answers[0].json()["id"]]
    assert (await studio.said())[before:].count("task.created") == 2  # the tuning, and the import of its model
    assert studio.studio.gate.in_flight == set()


async def test_what_was_refused_is_not_remembered(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        wish = {"kind": "tune", "model": GALLERY_MODEL, "dataset": "later"}
        missing = await api.post("/api/v1/tasks", json=wish, headers=under("k"))
        await studio.upload("later")
        found = await api.post("/api/v1/tasks", json=wish, headers=under("k"))
    assert (missing.status_code, found.status_code) == (404, 201)


async def test_a_wish_that_its_owner_refused_gives_the_key_back_and_one_of_unknown_fate_does_not(
    studio: Rig, owner: Owner
) -> None:
    async with studio.http() as api:
        owner.fault = Conflict("taken", code="name_taken")
        assert (await api.post("/api/v1/topics", json={"name": "a"}, headers=under("k"))).status_code == 409
        owner.fault = Unavailable("who knows")
        lost = await api.post("/api/v1/topics", json={"name": "b"}, headers=under("k"))
        owner.fault = None
        other = await api.post("/api/v1/topics", json={"name": "c"}, headers=under("k"))
        again = await api.post("/api/v1/topics", json={"name": "b"}, headers=under("k"))
    assert (lost.status_code, other.status_code, again.status_code) == (503, 422, 201)
    assert [key for _, key in owner.asked] == ["k"] * 3


async def test_the_answer_outlives_the_process_that_gave_it(studio: Rig, tmp_path: Path, database_url: str) -> None:
    sent = await tuning(studio)
    async with studio.http() as api:
        first = await api.post(sent.path, headers=under("k"), **sent.said)
    studio.studio.database.close()

    reborn = await studio_rig(tmp_path, database_url=database_url)
    async with reborn.http() as api:
        again = await api.post(sent.path, headers=under("k"), **sent.said)
    reborn.studio.database.close()
    assert (again.status_code, again.content) == (first.status_code, first.content)


async def test_an_answer_that_never_left_is_given_when_one_asks_again(
    studio: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between commit and answer: as far as the caller sees, the connection broke."""
    sent, real = await tuning(studio), studio.studio.ring

    def die() -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(studio.studio.tasks, "ring", die)
    async with studio.http() as api:
        broken = await api.post(sent.path, headers=under("k"), **sent.said)
        monkeypatch.setattr(studio.studio.tasks, "ring", real)
        answer = await api.post(sent.path, headers=under("k"), **sent.said)
        tasks = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]
    assert (broken.status_code, answer.status_code) == (500, 201)
    assert tasks == [answer.json()]


async def test_a_cancelled_job_is_answered_as_it_was_when_it_had_ended(studio: Rig) -> None:
    task = await some_task(studio)
    await studio.work(TaskKind.INGEST, TaskKind.IMPORT, TaskKind.VALIDATE)
    claim = await studio.claim(TaskKind.TUNE)
    assert claim is not None
    path = f"/v1/fine_tuning/jobs/ftjob-{task.split('_')[1]}/cancel"
    async with studio.http() as api:
        waiting = asyncio.create_task(api.post(path, headers=under("k")))
        while not await studio.read(lambda session: session.exec(select(IdempotencyRow)).first()):
            await asyncio.sleep(0.01)  # until the stop is stored
        busy = await api.post(path, headers=under("k"))
        await studio.end(claim, reason=EndReason.TERMINATED)
        first = await waiting
        again = await api.post(path, headers=under("k"))
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "request_in_progress")
    assert first.json()["status"] == "cancelled"
    assert (again.status_code, again.content) == (first.status_code, first.content)
