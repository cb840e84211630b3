"""An Idempotency-Key is worth nothing to strangers: other projects, people, lesser roles. Secrets are not kept."""

from __future__ import annotations

from typing import Any

import httpx
from sqlmodel import select
from studio_posts import FILE, OTHER_FILE, Owner, tuning, under
from studio_rig import OPERATOR_KEY, Rig

from finery_contracts.access import Role
from finery_kit.delivery_tables import IdempotencyRow
from finery_studio.projects.store import KeyRow


async def key_of(studio: Rig, *, user: str = "operator", role: Role = Role.COMMON, project: str = "") -> str:
    made = await studio.write(
        lambda tx: studio.studio.keys.add_key(tx, project or studio.actor.project, user, role=role, description="")
    )
    return str(made.secret)


async def test_a_key_means_nothing_in_another_project_and_to_another_person(studio: Rig) -> None:
    sent = await tuning(studio)
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
    sent, secret = await tuning(studio), await key_of(studio)
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
