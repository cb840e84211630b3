"""What a deployment's page shows of its past ends by policy; the log that bills are verified from does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finery_contracts.errors import NotFound, Unavailable
from finery_kit.testing import VirtualClock
from finery_studio.edge import forward
from finery_studio.events import log
from tests.services.studio.studio_rig import Rig, studio_rig
from tests.services.studio.test_event_log import said

VIEW = {
    "id": "dep_1", "project": "p", "name": "chat", "model": "m", "model_name": "m", "state": "running", "qps": 1,
    "version": 1, "created_by": "u", "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


class Deployer:
    """Knows one deployment, by name and id, of one project; may be away."""

    def __init__(self, project: str) -> None:
        self.project, self.away, self.asked = project, False, 0

    async def __call__(self, _owner: str, verb: str, body: Any, _answer: Any, *, actor: Any, **_: Any) -> Any:
        self.asked += 1
        if self.away:
            raise Unavailable("deployer does not answer")
        if verb != "get" or body.deployment not in ("chat", "dep_1") or actor.project != self.project:
            raise NotFound("there is no such deployment", code="deployment_not_found")
        return forward.Anything({**VIEW, "project": self.project})


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def studio(tmp_path: Path, clock: VirtualClock, database_url: str) -> AsyncIterator[Rig]:
    policy = tmp_path / "policy.yaml"
    policy.write_text("deployment_events_days: 10\n")
    rig = await studio_rig(tmp_path, clock=clock, database_url=database_url, retention_file=policy)
    yield rig
    rig.studio.database.close()


@pytest.fixture
def deployer(studio: Rig) -> Deployer:
    made = Deployer(studio.actor.project)
    studio.studio._ask = forward.Ask(made)
    return made


async def happen(studio: Rig, clock: VirtualClock, kind: str, noun: str = "dep_1", **more: Any) -> str:
    event, body = said(more.pop("project", studio.actor.project), kind, noun, at=clock(), **more)
    await studio.write(lambda tx: log.keep(tx, body))
    return event


async def shown(studio: Rig, ref: str = "dep_1", **asked: Any) -> list[str]:
    async with studio.http() as api:
        answer = await api.get(f"/api/v1/deployments/{ref}/events", params=asked)
    assert answer.status_code == 200, answer.text
    return [item["event"]["id"] for item in answer.json()["data"]]


async def test_the_days_of_the_policy_are_shown_and_the_log_keeps_the_rest(
    studio: Rig, deployer: Deployer, clock: VirtualClock
) -> None:
    first = await happen(studio, clock, "deployment.deploying")
    clock.now += timedelta(days=9, hours=23)
    second = await happen(studio, clock, "deployment.running")
    charge = await happen(studio, clock, "billing.charged", "charge_1", noun_id="dep_1")
    await happen(studio, clock, "deployment.running", "dep_2")

    assert await shown(studio) == await shown(studio, "chat") == [first, second, charge]
    clock.now += timedelta(hours=1)
    assert await shown(studio) == [first, second, charge]  # to the very second
    clock.now += timedelta(seconds=1)
    assert await shown(studio) == [second, charge]
    clock.now += timedelta(days=1000)
    assert await shown(studio) == await shown(studio, "chat") == []
    rows = await studio.read(lambda s: log.read(s, log.Wanted(studio.actor.project, noun_id="dep_1"), limit=9))
    assert [row.event_id for row in rows] == [first, second, charge]


async def test_pages_meet_every_event_once(studio: Rig, deployer: Deployer, clock: VirtualClock) -> None:
    events = []
    for _ in range(7):
        clock.now += timedelta(seconds=1)
        events.append(await happen(studio, clock, "deployment.running"))

    seen, after = list[str](), 0
    async with studio.http() as api:
        while True:
            asked = {"after": after, "limit": 3}
            page = (await api.get("/api/v1/deployments/chat/events", params=asked)).json()
            seen, after = seen + [item["event"]["id"] for item in page["data"]], page["next"]
            if not page["has_more"]:
                break
    assert seen == events


async def test_an_id_is_read_without_its_owner_and_after_the_deployment_was_deleted(
    studio: Rig, deployer: Deployer, clock: VirtualClock
) -> None:
    gone = [await happen(studio, clock, f"deployment.{fact}", "dep_9") for fact in ("deploying", "deleted")]
    deployer.away = True
    assert await shown(studio, "dep_9") == gone
    assert deployer.asked == 0


async def test_what_is_no_deployment_of_the_project_is_not_found(
    studio: Rig, deployer: Deployer, clock: VirtualClock
) -> None:
    await happen(studio, clock, "deployment.running", "dep_foreign", project="prj_other")
    task = (await studio.tune((await studio.upload()).id)).id
    async with studio.http() as api:
        for ref in ("dep_foreign", "nothing", task, "%25", "dep_1'--"):
            answer = await api.get(f"/api/v1/deployments/{ref}/events")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "deployment_not_found"), ref
        for asked in ({"after": "x"}, {"limit": 0}, {"limit": 1001}):
            assert (await api.get("/api/v1/deployments/dep_1/events", params=asked)).status_code == 400
    async with studio.http("fk-wrong") as stranger:
        assert (await stranger.get("/api/v1/deployments/dep_1/events")).status_code == 401
