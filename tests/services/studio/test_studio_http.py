"""Studio's HTTP surface and its inbound events, without a bus: pages, cursors, and input that is none."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Any

import pytest
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.inbound import TASK_REQUESTED, InboundEvent
from finery_contracts.jobs import TaskKind
from finery_kit.delivery import events_since
from finery_studio.edge.answers import openai_page
from finery_studio.inbound.handlers import hear as hear_message


@pytest.mark.parametrize(
    ("have", "limit", "more"), [([], 2, False), (["a"], 2, False), (["a", "b"], 2, False), (["a", "b", "c"], 2, True)]
)
def test_a_page_of_openais_says_whether_there_is_more(have: list[str], limit: int, more: bool) -> None:
    page = openai_page([{"id": name} for name in have], limit)
    shown = have[:limit]
    assert [item["id"] for item in page["data"]] == shown
    assert (page["first_id"], page["last_id"]) == ((shown[0], shown[-1]) if shown else (None, None))
    assert page["has_more"] is more


@pytest.mark.parametrize(
    ("path", "size"), [("/v1/fine_tuning/jobs", 5), ("/v1/files", 5), ("/api/v1/tasks", 11), ("/api/v1/datasets", 5)]
)
async def test_pages_follow_each_other_without_gap_or_repeat(studio: Rig, path: str, size: int) -> None:
    for number in range(5):
        await studio.tune((await studio.upload(f"f{number}", sha=str(number) * 64)).id)

    seen, after = list[str](), None
    async with studio.http() as api:
        while True:
            page = (await api.get(path, params={"limit": 2, **({"after": after} if after else {})})).json()
            seen += [item["id"] for item in page["data"]]
            after = page.get("next") or page.get("last_id")
            if not page["has_more"]:
                break

    assert len(seen) == size  # 5 ingests, 5 tunings, 1 import
    assert seen == sorted(set(seen), reverse=True)


async def test_an_unknown_cursor_in_a_jobs_events_is_refused(studio: Rig) -> None:
    job = await studio.tune((await studio.upload()).id)

    async def nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    studio.studio._read_subject = nothing  # type: ignore[method-assign]
    async with studio.http() as api:
        path = f"/v1/fine_tuning/jobs/ftjob-{job.id.split('_')[1]}/events"
        first = (await api.get(path, params={"limit": 1})).json()
        wrong = await api.get(path, params={"after": "ftevent-none"})
    assert [event["message"] for event in first["data"]] == ["the job was created"]
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "cursor_invalid")


async def test_a_job_asked_for_through_openais_surface_is_published(studio: Rig) -> None:
    dataset = await studio.upload()
    async with studio.http() as api:
        body = {"model": GALLERY_MODEL, "training_file": f"file-{dataset.id.split('_')[1]}", "suffix": "desk"}
        made = (await api.post("/v1/fine_tuning/jobs", json=body)).json()
        await studio.work()
        job = (await api.get(f"/v1/fine_tuning/jobs/{made['id']}")).json()
        model = (await api.get(f"/api/v1/models/{job['fine_tuned_model']}")).json()
        unsaid = (await api.get("/v1/fine_tuning/jobs", params={"metadata[team]": "a"})).json()
    assert model["published"] is True
    assert model["openai_name"].startswith(f"ft:{GALLERY_MODEL}:default:desk:")
    assert unsaid["data"] == []


@pytest.mark.parametrize("kind", [[], {}, None, 7, "nope", "tune "])
async def test_a_kind_that_is_none_is_a_400(studio: Rig, kind: Any) -> None:
    async with studio.http() as api:
        answer = await api.post("/api/v1/tasks", json={"kind": kind})
    assert answer.status_code == 400


async def test_a_name_that_no_message_could_carry_is_refused(studio: Rig) -> None:
    dataset = await studio.upload()
    body = {"kind": "tune", "model": GALLERY_MODEL, "dataset": dataset.id, "metadata": {"n": "n" * 2**20}}
    async with studio.http() as api:
        answer = await api.post("/api/v1/tasks", json=body)
        listed = (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "task_too_large")
    assert listed["data"] == []


async def test_a_search_means_the_very_characters(studio: Rig) -> None:
    await studio.tune((await studio.upload()).id, name="100% of it")
    await studio.tune((await studio.upload(sha="b" * 64)).id, name="nothing")
    async with studio.http() as api:
        found = (await api.get("/api/v1/tasks", params={"search": "%", "kind": "tune"})).json()["data"]
    assert [task["name"] for task in found] == ["100% of it"]


async def test_since_means_the_moment_in_whatever_zone_it_is_said(studio: Rig) -> None:
    dataset = await studio.upload()
    east = dataset.created_at.astimezone(timezone(timedelta(hours=9)))

    def count(moment: Any) -> Any:
        return studio.read(lambda s: len(events_since(s, studio.actor.project, since=moment, noun_id=dataset.id)))

    assert await count(east) == 1
    assert await count(east + timedelta(seconds=1)) == 0


async def hear(studio: Rig, event_id: str, data: dict[str, Any], kind: str = TASK_REQUESTED) -> None:
    event = InboundEvent(specversion="1.0", id=event_id, source="warehouse", type=kind, data=data)
    body, desk = event.model_dump_json().encode(), studio.studio.task_routes
    await studio.write(lambda tx: hear_message(tx, studio.actor.project, {}, body, desk, place="1"))


async def test_an_upstream_event_makes_one_task_however_often_it_comes(studio: Rig) -> None:
    dataset = await studio.upload()
    wish = {"kind": "tune", "model": GALLERY_MODEL, "dataset": dataset.id}
    for event_id in ("n1", "n1", "n2"):
        await hear(studio, event_id, wish)

    async with studio.http() as api:
        tasks = (await api.get("/api/v1/tasks", params={"kind": TaskKind.TUNE})).json()["data"]
    assert [task["created_by"] for task in tasks] == ["event:warehouse"] * 2


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        ({"kind": "tune", "model": GALLERY_MODEL, "dataset": "ds_none"}, TASK_REQUESTED, "file_not_found"),
        ({"kind": "tune", "model": GALLERY_MODEL, "dataset": "d", "foo": 1}, TASK_REQUESTED, "unknown_parameter"),
        ({"kind": []}, TASK_REQUESTED, "invalid_request"),
        ({"kind": "distill"}, TASK_REQUESTED, "not_offered_yet"),
        ({}, "io.finery.nonsense.v1", "type_unknown"),
    ],
)
async def test_an_upstream_event_that_cannot_be_followed_is_answered_once(
    studio: Rig, data: dict[str, Any], kind: str, code: str
) -> None:
    for _ in range(2):
        await hear(studio, "n1", data, kind)

    rows = await studio.read(lambda s: events_since(s, studio.actor.project))
    told = [row for row in rows if row.noun == "inbound"]
    assert len(told) == 1
    assert f'"code":"{code}"'.encode() in told[0].body
    assert await studio.claim() is None  # nothing half-made, such as the import of a model
