"""Idempotency-Key on every POST of studio's surface: the same answer again, no second effect, nothing for strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import func, select
from studio_rig import GALLERY_MODEL, OPERATOR_KEY, Rig, studio_rig

from finery_contracts.access import Actor, Role
from finery_contracts.dead import Replayed
from finery_contracts.errors import Conflict, FineryError, NotFound, Unavailable
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason
from finery_kit.delivery import OutboxRow
from finery_kit.delivery_tables import IdempotencyRow
from finery_studio.edge import forward
from finery_studio.edge.wishes import KEY_HEADER, REPLAYED_HEADER
from finery_studio.projects.store import KeyRow

WITHOUT_KEY = {"/confirm/{token}"}
"""Links that a person opens: no API key, so no project, and opening them twice is harmless anyway."""
FILE = {"file": ("train.jsonl", b'{"messages": []}\n')}
OTHER_FILE = {"file": ("train.jsonl", b'{"messages": [1]}\n')}


@dataclass
class Owner:
    """Owners of other nouns, as they answer: each wish once, by its key."""

    done: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    fault: FineryError | None = None

    async def __call__(
        self, owner: str, verb: str, body: Any, answer: Any, *, actor: Actor, idempotency_key: str | None = None,
        digest: str | None = None,
    ) -> forward.Anything:  # fmt: skip
        if verb == "list":
            return forward.Anything({"data": [], "has_more": False})
        self.asked.append((verb, idempotency_key))
        if self.fault is not None:
            raise self.fault
        name = f"{idempotency_key}/{digest}" if idempotency_key else str(len(self.asked))
        return forward.Anything(self.done.setdefault(name, self._made(verb, actor)))

    def _made(self, verb: str, actor: Actor) -> dict[str, Any]:
        number = len(self.done)
        made = {"id": f"{verb}_{number}", "project": actor.project, "name": "chat", "secret": f"whsec_{number}"}
        view = {
            "model": "m", "model_name": "m", "state": "running", "qps": 1, "version": 1, "created_by": "u",
            "created_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        return {**made, **view} if verb in ("create", "start", "stop") else made


@dataclass(frozen=True)
class Letters:
    """Dead letters, each of which can be replayed once."""

    owner: Owner
    jetstream: None

    async def replay(self, number: int) -> Replayed:
        if str(number) in self.owner.done:
            raise NotFound("gone")
        self.owner.done[str(number)] = {}
        return Replayed(id=number, durable="studio", subject="finery.evt.p.task.t.created")


@dataclass(frozen=True)
class Sent:
    """A request, and another one that it must not be taken for."""

    path: str
    said: dict[str, Any]
    other: dict[str, Any]


async def _task(studio: Rig) -> str:
    return (await studio.tune((await studio.upload()).id)).id


async def _paused(studio: Rig) -> str:
    task = await _task(studio)
    await studio.write(lambda tx: studio.studio.tasks.pause(tx, studio.actor.project, task))
    return task


async def _tune(studio: Rig) -> Sent:
    wish = {"kind": "tune", "model": GALLERY_MODEL, "dataset": (await studio.upload()).id}
    return Sent("/api/v1/tasks", {"json": wish}, {"json": {**wish, "name": "other"}})


async def _job(studio: Rig) -> Sent:
    wish = {"model": GALLERY_MODEL, "training_file": f"file-{(await studio.upload()).id.split('_')[1]}"}
    return Sent("/v1/fine_tuning/jobs", {"json": wish}, {"json": {**wish, "suffix": "other"}})


async def _cancel(studio: Rig) -> Sent:
    return Sent(f"/v1/fine_tuning/jobs/ftjob-{(await _task(studio)).split('_')[1]}/cancel", {}, {"json": {"other": 1}})


async def _published(studio: Rig) -> Sent:
    await _task(studio)
    done = await studio.work()
    model = (await studio.task(done[-1].task_id)).result["model"]
    return Sent(f"/api/v1/models/{model}/publish", {"json": {"name": "kept"}}, {"json": {"name": "other"}})


async def _deploy(studio: Rig) -> Sent:
    await _task(studio)
    await studio.work(TaskKind.IMPORT, TaskKind.VALIDATE)
    wish = {"name": "chat", "model": GALLERY_MODEL}
    return Sent("/api/v1/deployments", {"json": wish}, {"json": {**wish, "name": "other"}})


def _move(verb: str, task: Callable[[Rig], Awaitable[str]]) -> Callable[[Rig], Awaitable[Sent]]:
    async def sent(studio: Rig) -> Sent:
        return Sent(f"/api/v1/tasks/{await task(studio)}/{verb}", {}, {"json": {"other": 1}})

    return sent


def _plain(path: str, said: dict[str, Any], other: dict[str, Any]) -> Callable[[Rig], Awaitable[Sent]]:
    async def sent(_: Rig) -> Sent:
        return Sent(path, said, other)

    return sent


def _json(path: str, said: dict[str, Any], other: dict[str, Any]) -> Callable[[Rig], Awaitable[Sent]]:
    return _plain(path, {"json": said}, {"json": other})


HOOK = {"topic": "jobs", "url": "https://example.com/hook"}
MODEL = {"name": "mine", "source": {"gallery": GALLERY_MODEL}}
SENT: dict[str, Callable[[Rig], Awaitable[Sent]]] = {
    "/api/v1/projects": _json("/api/v1/projects", {"name": "shop"}, {"name": "other"}),
    "/api/v1/keys": _json("/api/v1/keys", {"description": "a"}, {"description": "b"}),
    "/api/v1/datasets": _plain("/api/v1/datasets", {"files": FILE}, {"files": OTHER_FILE}),
    "/v1/files": _plain(
        "/v1/files", {"files": FILE, "data": {"purpose": "fine-tune"}}, {"files": FILE, "data": {"purpose": "evals"}}
    ),
    "/api/v1/models": _json("/api/v1/models", MODEL, {**MODEL, "name": "other"}),
    "/api/v1/models/{ref}/publish": _published,
    "/api/v1/tasks": _tune,
    "/api/v1/tasks/{task_id}/terminate": _move("terminate", _task),
    "/api/v1/tasks/{task_id}/pause": _move("pause", _task),
    "/api/v1/tasks/{task_id}/resume": _move("resume", _paused),
    "/api/v1/tasks/{task_id}/copy": _move("copy", _task),
    "/v1/fine_tuning/jobs": _job,
    "/v1/fine_tuning/jobs/{job_id}/cancel": _cancel,
    "/api/v1/deployments": _deploy,
    "/api/v1/deployments/{ref}/start": _plain("/api/v1/deployments/chat/start", {}, {"json": {"other": 1}}),
    "/api/v1/deployments/{ref}/stop": _plain("/api/v1/deployments/chat/stop", {}, {"json": {"other": 1}}),
    "/api/v1/dead/{number}/replay": _plain("/api/v1/dead/7/replay", {}, {"json": {"other": 1}}),
    "/api/v1/topics": _json("/api/v1/topics", {"name": "jobs"}, {"name": "other"}),
    "/api/v1/subscriptions": _json("/api/v1/subscriptions", HOOK, {**HOOK, "description": "other"}),
}


@pytest.fixture
def owner(studio: Rig, monkeypatch: pytest.MonkeyPatch) -> Owner:
    owner = Owner()
    studio.studio._ask = forward.Ask(owner)

    async def silent() -> None:
        return None

    monkeypatch.setattr(studio.studio, "tell_keys", silent)
    monkeypatch.setattr("finery_studio.events.dead.DeadLetters", partial(Letters, owner))
    monkeypatch.setattr(type(studio.studio.service), "jetstream", None)
    return owner


def posts(studio: Rig) -> set[str]:
    paths = studio.studio.http().openapi()["paths"]
    return {path for path, operations in paths.items() if "post" in operations} - WITHOUT_KEY


async def facts(studio: Rig) -> int:
    return await studio.read(lambda session: session.exec(select(func.count()).select_from(OutboxRow)).one())


def under(key: str) -> dict[str, str]:
    return {KEY_HEADER: key}


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
            first = await api.post(sent.path, headers=key, **sent.said)
            assert (first.status_code in (200, 201), REPLAYED_HEADER in first.headers) == (True, False), first.text
            before, asked = await facts(studio), len(owner.done)

            again = await api.post(sent.path, headers=key, **sent.said)
            other = await api.post(sent.path, headers=key, **sent.other)
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
    sent = await _tune(studio)
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
    sent = await _tune(studio)
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
    sent, real = await _tune(studio), studio.studio.ring

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
    task = await _task(studio)
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


# --- nothing for strangers --------------------------------------------------------------------------------------------


async def key_of(studio: Rig, *, user: str = "operator", role: Role = Role.COMMON, project: str = "") -> str:
    made = await studio.write(
        lambda tx: studio.studio.keys.add_key(tx, project or studio.actor.project, user, role=role, description="")
    )
    return str(made.secret)


async def test_a_key_means_nothing_in_another_project_and_to_another_person(studio: Rig) -> None:
    sent = await _tune(studio)
    other = await studio.write(lambda tx: studio.studio.keys.add_project(tx, "other"))
    stranger = await key_of(studio, project=other.id)
    colleague = await key_of(studio, user="bob")
    same = await key_of(studio, role=Role.COMMON)
    reader = await key_of(studio, role=Role.READ)
    answers: dict[str, httpx.Response] = {}
    for who, key in {
        "me": OPERATOR_KEY,
        "stranger": stranger,
        "bob": colleague,
        "same": same,
        "reader": reader,
    }.items():
        async with studio.http(key) as api:
            answers[who] = await api.post(sent.path, headers=under("k"), **sent.said)
    assert (answers["stranger"].status_code, answers["stranger"].json()["error"]["code"]) == (404, "file_not_found")
    assert answers["bob"].status_code == 422
    assert answers["same"].content == answers["me"].content
    assert (answers["reader"].status_code, answers["reader"].json()["error"]["code"]) == (403, "role_too_low")


async def test_a_revoked_key_gets_no_answer_again(studio: Rig, owner: Owner) -> None:
    sent, secret = await _tune(studio), await key_of(studio)
    async with studio.http(secret) as api, studio.http() as boss:
        assert (await api.post(sent.path, headers=under("k"), **sent.said)).status_code == 201
        keys = (await boss.get("/api/v1/keys")).json()["data"]
        await boss.delete(f"/api/v1/keys/{keys[-1]['id']}")
        assert (await api.post(sent.path, headers=under("k"), **sent.said)).status_code == 401


async def test_the_secret_of_a_new_key_is_told_again_works_and_lies_nowhere(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        first = (await api.post("/api/v1/keys", json={}, headers=under("k"))).json()
        again = (await api.post("/api/v1/keys", json={}, headers=under("k"))).json()
        project = (await api.post("/api/v1/projects", json={"name": "shop"}, headers=under("p"))).json()
    async with studio.http(first["secret"]) as api:
        assert (await api.get("/api/v1/me")).json()["key"] == first["id"]
    async with studio.http(project["key"]["secret"]) as api:
        assert (await api.get("/api/v1/me")).json()["project"] == project["id"]

    rows = await studio.read(lambda s: [*s.exec(select(IdempotencyRow)), *s.exec(select(KeyRow))])
    kept = str([row.model_dump() for row in rows])
    assert first == again
    for secret in (first["secret"], project["key"]["secret"], project["bus"]["password"]):
        assert secret not in kept


async def test_a_lesser_key_of_the_same_person_does_not_get_a_better_one_told(studio: Rig, owner: Owner) -> None:
    reader = await key_of(studio, role=Role.READ)
    async with studio.http() as api, studio.http(reader) as weak:
        wish: dict[str, Any] = {"json": {"role": "full"}, "headers": under("k")}
        assert (await api.post("/api/v1/keys", **wish)).status_code == 201
        refused = await weak.post("/api/v1/keys", **wish)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role_too_low")


async def test_a_body_is_compared_by_what_it_says(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        headers = {**under("k"), "content-type": "application/json"}
        first = await api.post("/api/v1/topics", content='{"name":"a","description":"d"}', headers=headers)
        again = await api.post("/api/v1/topics", content=' {"description": "d", "name": "a"}', headers=headers)
        deep = await api.post("/api/v1/tasks", content="[" * 100_000, headers={**headers, **under("d")})
        file = {"files": FILE, "headers": under("f")}
        uploads = [await api.post("/api/v1/datasets", **file) for _ in range(2)]  # each with a boundary of its own
        other = await api.post("/api/v1/datasets", files=OTHER_FILE, headers=under("f"))
    assert first.content == again.content
    assert deep.status_code == 400
    assert uploads[0].json() == uploads[1].json()
    assert other.status_code == 422
