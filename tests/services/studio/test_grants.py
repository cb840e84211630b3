"""Grants: given by the role full, for whom and how long; what no grant allows is refused when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from studio_posts import Owner
from studio_rig import Rig, code_of, studio_rig

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Conflict, FineryError, Forbidden, InvalidRequest
from finery_contracts.grants import Action, GrantChange, GrantRequest, GrantView, Target, TargetView
from finery_studio.grants import domain, handlers, store

PATH = "/api/v1/grants"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ANNA = Actor(project="prj_1", project_name="p", user="anna", key="key_1", role=Role.COMMON, groups=["data"])


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest_asyncio.fixture
async def timed(tmp_path: Path, database_url: str) -> AsyncIterator[tuple[Rig, Clock]]:
    clock = Clock()
    rig = await studio_rig(tmp_path, database_url=database_url, clock=clock)
    yield rig, clock
    rig.studio.database.close()


def grant(resource: str = "s3://data/train", **said: Any) -> GrantView:
    return GrantView(
        **{
            "id": "grant_1", "project": "prj_1", "action": Action.READ, "resource": resource,
            "target": TargetView(kind="everyone"), "version": 1, "created_by": "o", "created_at": NOW, **said,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("granted", "wanted", "covered"),
    [
        ("s3://data", "s3://data/any/key", True),
        ("s3://data/train", "s3://data/train", True),
        ("s3://data/train", "s3://data/train/a.jsonl", True),
        ("s3://data/train", "s3://data/training/a.jsonl", False),
        ("s3://data", "s3://data2/a", False),
        ("file:///data", "file:///data/x", True),
        ("file:///data", "file:///database", False),
        ("https://example.com", "https://example.com/a", True),
        ("https://example.com", "http://example.com/a", False),
        ("https://example.com", "https://example.com.evil.org/a", False),
        ("https://example.com", "https://example.com:8443/a", False),
        ("sql://warehouse", "sql://warehouse", True),
        ("sql://ware", "sql://warehouse", False),
    ],
)
def test_a_grant_covers_what_lies_below_it_and_nothing_beside(granted: str, wanted: str, covered: bool) -> None:
    assert domain.covers(domain.check_resource(Action.READ, granted), wanted) is covered


@pytest.mark.parametrize(
    "resource",
    [
        "data", "s3://", "s3:///key", "s3://data/../other", "s3://data/%2e%2e/x", "https://host/a?b=1", "ftp://host/x",
        "file://host/x", "file:///", "https://user@host/", "https://HOST/\\x", "sql://a/b", "topic://jobs", "s3://*/x",
        "s3://data/*", "https://host/a/**", "s3://data/\n", "s3://data/a\x00b", "file:///data//x",
    ],
)  # fmt: skip
def test_what_is_no_place_is_no_resource(resource: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        domain.check_resource(Action.READ, resource)
    assert refused.value.error_code == "resource_invalid"


def test_spellings_that_mean_the_same_are_one() -> None:
    assert domain.check_resource(Action.CALL, "https://Example.COM:443/") == "https://example.com"
    assert domain.check_resource(Action.WRITE, "s3://data/out/") == "s3://data/out"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        (Target(), True),
        (Target(kind="user", name="anna"), True),
        (Target(kind="user", name="bert"), False),
        (Target(kind="federated_user", name="anna"), False),
        (Target(kind="group", name="data"), True),
        (Target(kind="group", name="anna"), False),
    ],
)
def test_a_grant_is_for_its_target_alone(target: Target, meant: bool) -> None:
    allowed = domain.allows(
        grant(target=domain.target_of(target)), ANNA, Action.READ, resource="s3://data/train/x", now=NOW
    )
    assert allowed is meant
    federated = ANNA.model_copy(update={"federated": True})
    assert domain.is_for(TargetView(kind="federated_user", name="anna"), federated)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Forbidden) as refused:
        domain.check_granted([grant(action=Action.WRITE)], ANNA, Action.READ, resource="s3://data/train/x", now=NOW)
    assert refused.value.error_code == "grant_missing"
    assert refused.value.details[0]["permission"] == "read s3://data/train/x"


@pytest.mark.parametrize(
    "change",
    [
        GrantChange(resource="s3://data"),
        GrantChange(resource="s3://data/train-2"),
        GrantChange(target=Target()),
        GrantChange(target=Target(kind="user", name="bert")),
        GrantChange(days=30),
    ],
)
def test_a_grant_is_never_widened(change: GrantChange) -> None:
    narrow = grant(target=TargetView(kind="user", name="anna"), expires_at=NOW + timedelta(days=2))
    with pytest.raises(Conflict) as refused:
        domain.narrowed(narrow, change, NOW)
    assert refused.value.error_code == "grant_wider"


async def test_grants_are_given_seen_narrowed_and_taken_and_each_is_said(studio: Rig) -> None:
    async with studio.http() as api:
        made = (await api.post(PATH, json={"action": "read", "resource": "s3://data", "days": 3})).json()
        seen = (await api.get(f"{PATH}/{made['id']}")).json()
        change = {"resource": "s3://data/train", "target": {"kind": "user", "name": "anna"}, "days": 1}
        narrowed = (await api.patch(f"{PATH}/{made['id']}", json=change)).json()
        listed = (await api.get(PATH)).json()["data"]
        gone = await api.delete(f"{PATH}/{made['id']}")
        again = await api.get(f"{PATH}/{made['id']}")
    assert seen == made
    assert (narrowed["resource"], narrowed["target"]["name"], narrowed["version"]) == ("s3://data/train", "anna", 2)
    assert listed == [narrowed]
    assert (gone.json()["deleted"], again.status_code) == (True, 404)
    assert await studio.said(made["id"]) == ["grant.given", "grant.narrowed", "grant.withdrawn"]


async def test_fifty_are_the_limit_and_clearing_asks_for_the_word(studio: Rig) -> None:
    def give(tx: Any) -> None:
        for number in range(50):
            handlers.give(tx, GrantRequest(action=Action.READ, resource=f"s3://data/{number}"), studio.actor)

    await studio.write(give)
    async with studio.http() as api:
        full = await api.post(PATH, json={"action": "read", "resource": "s3://data/x"})
        unconfirmed = await api.delete(PATH)
        cleared = await api.delete(PATH, params={"confirm": "DELETE"})
        assert (await api.get(PATH)).json()["data"] == []
    assert (full.status_code, full.json()["error"]["code"]) == (409, "too_many_grants")
    assert (unconfirmed.status_code, unconfirmed.json()["error"]["code"]) == (400, "confirm_missing")
    assert cleared.json() == {"deleted": 50}


@pytest.mark.parametrize("days", [1, 7, None])
async def test_a_grant_ends_when_its_days_are_over(timed: tuple[Rig, Clock], days: int | None) -> None:
    studio, clock = timed
    asked = GrantRequest(action=Action.READ, resource="s3://data", days=days)
    made = await studio.write(lambda tx: handlers.give(tx, asked, studio.actor))

    async def allowed() -> bool:
        try:
            await studio.write(lambda tx: handlers.check(tx, studio.actor, Action.READ, resource="s3://data/x"))
        except Forbidden:
            return False
        return True

    clock.now = NOW + timedelta(days=days or 30_000) - timedelta(seconds=1)
    before = await allowed()
    clock.now += timedelta(seconds=1)
    after = await allowed()
    await studio.write(handlers.expire)
    left = await studio.read(lambda session: store.of_project(session, studio.actor.project))
    assert (before, after, [grant.id for grant in left]) == (True, days is None, [made.id] if days is None else [])
    assert await studio.said(made.id) == ["grant.given", *(["grant.expired"] if days else [])]


@pytest.mark.parametrize("role", [Role.READ, Role.COMMON])
async def test_who_may_not_give_grants_may_see_them(studio: Rig, owner: Owner, role: Role) -> None:
    async with studio.http() as api:
        key = (await api.post("/api/v1/keys", json={"role": role, "user": "anna"})).json()["secret"]
        made = (await api.post(PATH, json={"action": "read", "resource": "s3://data"})).json()
    async with studio.http(key) as api:
        answers = [
            await api.post(PATH, json={"action": "read", "resource": "s3://other"}),
            await api.patch(f"{PATH}/{made['id']}", json={"days": 1}),
            await api.delete(f"{PATH}/{made['id']}"),
            await api.delete(PATH, params={"confirm": "DELETE"}),
        ]
        seen = await api.get(PATH)
    assert {answer.status_code for answer in answers} == {403}
    assert [one["id"] for one in seen.json()["data"]] == [made["id"]]


async def test_another_project_sees_and_uses_nothing_of_it(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        other = (await api.post("/api/v1/projects", json={"name": "other"})).json()["key"]["secret"]
        made = (await api.post(PATH, json={"action": "read", "resource": "s3://data"})).json()
    async with studio.http(other) as api:
        assert (await api.get(PATH)).json()["data"] == []
        for answer in (await api.get(f"{PATH}/{made['id']}"), await api.delete(f"{PATH}/{made['id']}")):
            assert answer.status_code == 404
    stranger = studio.actor.model_copy(update={"project": "prj_other"})
    with pytest.raises(FineryError):
        await studio.write(lambda tx: handlers.check(tx, stranger, Action.READ, resource="s3://data/x"))


async def test_a_grant_whose_time_is_over_is_not_there_even_before_it_is_cleared_away(
    timed: tuple[Rig, Clock],
) -> None:
    studio, clock = timed
    async with studio.http() as api:
        given = (await api.post(PATH, json={"action": "read", "resource": "s3://data", "days": 1})).json()
        place = f"{PATH}/{given['id']}"
        assert (await api.get(place)).status_code == 200
        clock.now += timedelta(days=1)
        late = [await api.get(place), await api.patch(place, json={"resource": "s3://data/x"}), await api.delete(place)]
    assert [code_of(answer) for answer in late] == [(404, "grant_not_found")] * 3
    assert await studio.said(given["id"]) == ["grant.given"]
