"""The event log: what others said is kept once, in its very bytes, and read back by cursor, time, noun and type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from studio_rig import Rig

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.log import MAX_PAGE_BYTES, LogPage, LogRequest
from finery_kit.bus import Call
from finery_kit.relay import _unpublished
from finery_studio.events import log
from finery_studio.events.replay import is_own_inbox

EARLY = datetime(2026, 11, 1, tzinfo=UTC)


def said(
    project: str, kind: str, noun: str, /, *, at: datetime = EARLY, event_id: str = "", **data: Any
) -> tuple[str, bytes]:
    """A fact of another service, with a space and a letter that a new rendering would change."""
    event_id = event_id or new_id("evt")
    text = (
        f'{{"specversion":"1.0", "id":"{event_id}","type":"io.finery.{kind}.v1","source":"finery/other",'
        f'"subject":"{kind.split(".")[0]}/{noun}","time":"{at.isoformat()}","datacontenttype":"application/json",'
        f'"project":"{project}","nounversion":1,"data":{_json(data)}}}'
    )
    return event_id, text.encode()


def _json(data: dict[str, Any]) -> str:
    return "{" + ",".join(f'"{name}": "{value}"' for name, value in data.items()) + "}"


async def heard(studio: Rig, kind: str, noun: str, /, **more: Any) -> str:
    event_id, body = said(more.pop("project", studio.actor.project), kind, noun, **more)
    await studio.write(lambda tx: log.keep(tx, body))
    return event_id


async def asked(studio: Rig, actor: Actor | None = None, **wanted: Any) -> LogPage:
    call = Call(LogRequest.model_validate(wanted), actor or studio.actor, None)
    return await studio.studio.on_events(call)


def ids(page: LogPage) -> list[str]:
    return [item.event["id"] for item in page.data]


async def test_a_fact_of_another_service_is_kept_once_in_its_very_bytes_and_never_published_again(studio: Rig) -> None:
    _, body = said(studio.actor.project, "deployment.running", "dep_1", note="grün")
    kept = [await studio.write(lambda tx: log.keep(tx, body)) for _ in range(3)]

    wanted = log.Wanted(studio.actor.project, noun_id="dep_1")
    rows = await studio.read(lambda session: log.read(session, wanted, limit=10))
    assert kept == [True, False, False]
    assert [(row.body, row.published, row.own) for row in rows] == [(body, True, False)]
    assert rows[0].bus_subject == f"finery.evt.{studio.actor.project}.deployment.dep_1.running"
    assert [row for row in await studio.read(_unpublished) if row.noun == "deployment"] == []


async def test_what_is_no_fact_is_not_kept(studio: Rig) -> None:
    with pytest.raises(ValidationError):
        await studio.write(lambda tx: log.keep(tx, b'{"specversion":"1.0"}'))


async def test_a_fact_of_a_kind_that_this_version_does_not_know_is_kept_too(studio: Rig) -> None:
    event = await heard(studio, "comet.seen", "comet_1")
    assert ids(await asked(studio, types=["comet.seen"])) == [event]


async def test_own_and_foreign_facts_stand_in_one_order_and_a_cursor_meets_each_once(studio: Rig) -> None:
    dataset = await studio.upload()
    charged = await heard(studio, "billing.charged", "line_1", noun_id=dataset.task)
    await studio.work()

    seen, after = list[str](), 0
    while True:
        page = await asked(studio, after=after, limit=3)
        seen += ids(page)
        after = page.next
        if not page.has_more:
            break

    everything = ids(await asked(studio, limit=1000))
    assert seen == everything
    assert len(set(seen)) == len(seen) > 6
    assert charged in seen
    assert (await asked(studio, after=after)).next == after


async def test_a_charge_of_several_tasks_stands_in_the_history_of_each(studio: Rig) -> None:
    event_id, body = said(studio.actor.project, "billing.charged", "charge_1")
    lines = b'"data":{"lines":[{"noun_id":"task_1"},{"noun_id":"task_2"},{"noun_id":7},5]}}'
    await studio.write(lambda tx: log.keep(tx, body.replace(b'"data":{}}', lines)))
    assert [ids(await asked(studio, noun_id=noun)) for noun in ("task_1", "task_2", "task_3", "7")] == [
        [event_id], [event_id], [], [],
    ]  # fmt: skip


async def test_a_tasks_history_holds_what_others_say_about_it(studio: Rig) -> None:
    dataset = await studio.upload()
    await heard(studio, "billing.charged", "line_1", noun_id=dataset.task)
    await heard(studio, "billing.charged", "line_2", noun_id="task_other")
    await heard(studio, "autostop.warned", str(dataset.task))
    await studio.work()

    kinds = [item.event["type"] for item in (await asked(studio, noun_id=dataset.task)).data]

    assert kinds[0] == "io.finery.dataset.uploaded.v1"
    assert kinds[1] == "io.finery.task.created.v1"
    assert kinds.count("io.finery.billing.charged.v1") == 1
    assert "io.finery.autostop.warned.v1" in kinds
    assert kinds[-1] == "io.finery.task.succeeded.v1"
    assert "io.finery.dataset.ready.v1" in kinds


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (["task.running"], {"task.running"}),
        (["io.finery.task.running.v1"], {"task.running"}),
        (["io.finery.task.running.v2"], set()),
        (["deployment.*"], {"deployment.running"}),
        (["deployment.*", "usage.recorded"], {"deployment.running", "usage.recorded"}),
        (["task_run.*"], set()),
        (["*"], {"task.running", "deployment.running", "usage.recorded"}),
        ([], {"task.running", "deployment.running", "usage.recorded"}),
    ],
)
async def test_types_are_named_exactly_or_by_their_noun(studio: Rig, types: list[str], found: set[str]) -> None:
    for kind in ("task.running", "deployment.running", "usage.recorded"):
        await heard(studio, kind, "noun_1")
    page = await asked(studio, types=types, noun_id="noun_1")
    assert {item.event["type"].removeprefix("io.finery.")[:-3] for item in page.data} == found


@pytest.mark.parametrize(
    "pattern", ["", "task", "task.", "task.*.v1", "Task.running", "io.finery.%", "a.b.c", "task.%"]
)
def test_a_type_that_is_none_is_refused_by_its_code(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        LogRequest.model_validate({"types": [pattern]})
    assert refused.value.error_code == "types_invalid"


async def test_since_is_the_time_of_the_fact_not_of_its_arrival(studio: Rig) -> None:
    late = await heard(studio, "deployment.running", "dep_1", at=EARLY + timedelta(hours=2))
    early = await heard(studio, "deployment.stopped", "dep_1", at=EARLY)

    assert ids(await asked(studio, noun_id="dep_1", since=EARLY + timedelta(hours=1))) == [late]
    assert ids(await asked(studio, noun_id="dep_1", since=EARLY)) == [late, early]


async def test_nobody_reads_another_projects_log_but_the_operator_and_services(studio: Rig) -> None:
    foreign = await heard(studio, "deployment.running", "dep_9", project="prj_other")

    assert foreign not in ids(await asked(studio, limit=1000))
    assert foreign in ids(await asked(studio, all_projects=True, limit=1000))
    with pytest.raises(Forbidden):
        await asked(studio, studio.by(Role.FULL), all_projects=True)
    service = Call(LogRequest(all_projects=True, limit=1000), None, None)
    assert foreign in ids(await studio.studio.on_events(service))
    with pytest.raises(InvalidRequest):
        await studio.studio.on_events(Call(LogRequest(), None, None))


async def test_a_page_fits_into_a_message_however_large_its_events_are(studio: Rig) -> None:
    sizes = [300_000, 300_000, 900_000, 10]
    events = [await heard(studio, "dataset.rejected", "ds_1", report="x" * size) for size in sizes]

    seen, after, pages = list[str](), 0, 0
    while True:
        page = await asked(studio, noun_id="ds_1", after=after)
        assert len(page.data) == 1 or len(page.model_dump_json()) < MAX_PAGE_BYTES + 1000
        assert len(page.model_dump_json()) < 1_000_000
        seen, after, pages = seen + ids(page), page.next, pages + 1
        if not page.has_more:
            break
    assert (seen, pages) == (events, 4)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"after": "x"}, "cursor_invalid"),
        ({"after": "-1"}, "cursor_invalid"),
        ({"after": "9" * 30}, "cursor_invalid"),
        ({"since": "yesterday"}, "since_invalid"),
        ({"types": "task"}, "types_invalid"),
        ({"follow": "true", "types": "%"}, "types_invalid"),
    ],
)
async def test_a_wrong_place_is_refused_by_its_code(studio: Rig, asked: dict[str, str], code: str) -> None:
    async with studio.http() as api:
        answer = await api.get("/api/v1/events", params=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize("since", ["2026-11-01T01:00:00Z", "2026-11-01T10:00:00+09:00", "2026-11-01T01:00:00"])
async def test_a_time_is_understood_in_any_zone(studio: Rig, since: str) -> None:
    await heard(studio, "deployment.stopped", "dep_1", at=EARLY)
    late = await heard(studio, "deployment.running", "dep_1", at=EARLY + timedelta(hours=2))
    async with studio.http() as api:
        page = (await api.get("/api/v1/events", params={"noun": "dep_1", "since": since})).json()
        day = (await api.get("/api/v1/events", params={"noun": "dep_1", "since": "2026-11-01"})).json()
    assert [item["event"]["id"] for item in page["data"]] == [late]
    assert len(day["data"]) == 2


@pytest.mark.parametrize(
    ("reply", "own"),
    [
        ("_INBOX_prj_1.a.b", True), ("_INBOX_prj_1", False), ("_INBOX_prj_12.a", False), ("_INBOX_prj_1.>", False),
        ("_INBOX_prj_2.a", False), ("finery.evt.prj_1.x", False), ("", False),
    ],
)  # fmt: skip
def test_an_answer_goes_to_the_projects_inbox_or_nowhere(reply: str, own: bool) -> None:
    assert is_own_inbox("prj_1", reply) is own
