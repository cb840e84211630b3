"""CloudEvents from outside by HTTP and NATS: every mode of the binding, each event once, refusals with the reason."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from studio_posts import tuning
from studio_rig import Rig

from finery_contracts.access import Role
from finery_contracts.errors import FineryError
from finery_contracts.inbound import TASK_REQUESTED
from finery_studio.events import log
from finery_studio.inbound import cloudevents
from finery_studio.inbound.handlers import hear

PATH = "/api/v1/inbound"
EVENT: dict[str, Any] = {"specversion": "1.0", "id": "n1", "source": "/ware/house", "type": TASK_REQUESTED}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {"ce-specversion": "1.0", "ce-id": "n1", "ce-source": "/ware/house", "ce-type": TASK_REQUESTED}


async def wish(studio: Rig) -> dict[str, Any]:
    return (await tuning(studio)).said["json"]


async def refusals(studio: Rig) -> list[dict[str, Any]]:
    wanted = log.Wanted(studio.actor.project, types=("inbound.refused",))
    rows = await studio.read(lambda session: log.read(session, wanted, limit=100))
    return [json.loads(row.body)["data"] for row in rows]


async def tunings(studio: Rig) -> list[dict[str, Any]]:
    async with studio.http() as api:
        return (await api.get("/api/v1/tasks", params={"kind": "tune"})).json()["data"]


async def test_one_event_in_three_modes_makes_one_task_and_gets_one_answer(studio: Rig) -> None:
    data = await wish(studio)
    async with studio.http() as api:
        answers = [
            await api.post(PATH, json={**EVENT, "data": data}, headers=STRUCTURED),
            await api.post(PATH, json=data, headers=BINARY),
            await api.post(
                PATH, headers=STRUCTURED,
                json={**EVENT, "data_base64": base64.b64encode(json.dumps(data).encode()).decode()},
            ),
        ]  # fmt: skip
        batch = await api.post(PATH, json=[{**EVENT, "data": data}, {**EVENT, "id": "n2", "data": data}], headers=BATCH)
    assert {answer.status_code for answer in (*answers, batch)} == {202}
    assert len({answer.content for answer in answers}) == 1
    made = [item["task"] for item in batch.json()["data"]]
    assert made[0] == answers[0].json()["task"]
    assert sorted(made) == sorted(task["id"] for task in await tunings(studio))
    assert {task["created_by"] for task in await tunings(studio)} == {"event:/ware/house"}


async def test_headers_are_decoded_as_the_binding_says(studio: Rig) -> None:
    data = await wish(studio)
    async with studio.http() as api:
        said = {**BINARY, "ce-source": "Euro%20%E2%82%AC%20%F0%9F%98%80", "ce-id": '"a\\"b"'}
        answer = await api.post(PATH, json=data, headers=said)
        wrong = await api.post(PATH, json=data, headers={**BINARY, "ce-source": "%FF"})
    assert (answer.json()["source"], answer.json()["id"]) == ("Euro € 😀", 'a"b')
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "source")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"specversion": "0.3"}, "specversion_unsupported", "specversion"),
        ({"specversion": None}, "specversion_unsupported", "specversion"),
        ({"id": ...}, "attribute_missing", "id"),
        ({"source": ...}, "attribute_missing", "source"),
        ({"type": ...}, "attribute_missing", "type"),
        ({"specversion": ...}, "attribute_missing", "specversion"),
        ({"id": ""}, "attribute_invalid", "id"),
        ({"id": 7}, "attribute_invalid", "id"),
        ({"id": "x" * 256}, "attribute_invalid", "id"),
        ({"id": "a\u0000b"}, "attribute_invalid", "id"),
        ({"source": "\ud800"}, "attribute_invalid", "source"),
        ({"time": "yesterday"}, "attribute_invalid", "time"),
        ({"data": []}, "data_invalid", "data"),
        ({"data": {}, "datacontenttype": "text/xml"}, "datacontenttype_unsupported", "datacontenttype"),
        ({"data_base64": "§"}, "data_invalid", "data_base64"),
        ({"data": {}, "data_base64": "e30="}, "attribute_invalid", "data"),
        ({"type": "io.finery.nonsense.v1"}, "type_unknown", "type"),
        ({"data": {"kind": "tune"}}, "invalid_request", "model"),
    ],
)  # fmt: skip
async def test_an_event_that_is_wrong_is_refused_by_name_and_said_so(
    studio: Rig, change: dict[str, Any], code: str, param: str
) -> None:
    event = {name: value for name, value in {**EVENT, **change}.items() if value is not ...}
    async with studio.http() as api:
        answer = await api.post(PATH, content=json.dumps(event), headers=STRUCTURED)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    told = await refusals(studio)
    assert [(refusal["error"]["code"], refusal["error"]["param"]) for refusal in told] == [(code, param)]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", STRUCTURED, 400, "not_json"),
        (b"\xff", STRUCTURED, 400, "not_json"),
        (b'{"a": NaN}', STRUCTURED, 400, "not_json"),
        (b"[" * 100_000, STRUCTURED, 400, "not_json"),
        (b"[]", STRUCTURED, 400, "not_a_cloudevent"),
        (b"{}", BATCH, 400, "not_a_cloudevent"),
        (b"{}", {"content-type": "application/json"}, 400, "not_a_cloudevent"),
        (b"{}", {}, 400, "not_a_cloudevent"),
        (b"<x/>", {**BINARY, "content-type": "text/xml"}, 400, "datacontenttype_unsupported"),
        (b" " * 300_000, STRUCTURED, 413, "too_large"),
        (b" " * 5_000_000, BATCH, 413, "too_large"),
        (b"[" + b"{}," * 100 + b"{}]", BATCH, 413, "too_large"),
    ],
)
async def test_a_message_that_cannot_be_read_is_refused(
    studio: Rig, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async with studio.http() as api:
        answer = await api.post(PATH, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("name", ["ce-id", "CE-Type", "content-type"])
async def test_a_header_that_comes_twice_is_refused_and_makes_nothing(studio: Rig, name: str) -> None:
    body = json.dumps(await wish(studio)).encode()
    async with studio.http() as api:
        twice = [*BINARY.items(), ("content-type", "application/json"), (name, "n2")]
        answer = await api.post(PATH, content=body, headers=twice)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "header_repeated", name.lower())
    assert await tunings(studio) == []
    assert [refusal["error"]["code"] for refusal in await refusals(studio)] == ["header_repeated"]


async def test_a_batch_says_of_each_event_what_came_of_it(studio: Rig) -> None:
    events = [{**EVENT, "data": await wish(studio)}, {**EVENT, "id": "n2", "data": {}}, 7]
    async with studio.http() as api:
        answer = await api.post(PATH, json=events, headers=BATCH)
    made, refused, none = answer.json()["data"]
    assert (answer.status_code, made["error"], refused["task"], none["error"]["code"]) == (
        202, None, None, "not_a_cloudevent",
    )  # fmt: skip
    assert len(await refusals(studio)) == 2


async def test_a_refused_event_that_comes_again_is_refused_alike_and_said_once(studio: Rig) -> None:
    async with studio.http() as api:
        answers = [await api.post(PATH, json={**EVENT, "data": {"kind": "distill"}}, headers=STRUCTURED) for _ in "ab"]
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].json() == answers[1].json()
    assert len(await refusals(studio)) == 1


async def test_events_need_a_key_that_may_make_tasks(studio: Rig) -> None:
    made = await studio.write(
        lambda tx: studio.studio.keys.add_key(tx, studio.actor.project, "r", role=Role.READ, description="")
    )
    async with studio.http(made.secret) as reader, studio.http("fk-none") as nobody:
        answers = [await api.post(PATH, json=EVENT, headers=STRUCTURED) for api in (reader, nobody)]
    assert [answer.status_code for answer in answers] == [403, 401]
    assert await refusals(studio) == []


async def test_a_broker_may_ask_whether_it_may_deliver(studio: Rig) -> None:
    async with studio.http("none") as api:
        asked = {"WebHook-Request-Origin": "broker.example.com", "WebHook-Request-Rate": "120"}
        yes = await api.options(PATH, headers=asked)
        plain = await api.options(PATH)
        wrong = await api.options(PATH, headers={"WebHook-Request-Origin": "a b<script>"})
    assert yes.status_code == 200
    assert (yes.headers["webhook-allowed-origin"], yes.headers["webhook-allowed-rate"]) == ("broker.example.com", "120")
    assert "POST" in yes.headers["allow"]
    assert "webhook-allowed-origin" not in plain.headers
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "origin_invalid")


async def heard(studio: Rig, headers: dict[str, str], body: bytes, *, place: str = "1") -> list[Any]:
    project, desk = studio.actor.project, studio.studio.task_routes
    return await studio.write(lambda tx: hear(tx, project, headers, body, desk, place=place))


async def test_the_bus_takes_the_same_modes(studio: Rig) -> None:
    data = await wish(studio)
    plain = await heard(studio, {}, json.dumps({**EVENT, "data": data}).encode())
    binary = await heard(studio, BINARY, json.dumps(data).encode())
    batch = await heard(studio, BATCH, json.dumps([{**EVENT, "data": data}]).encode())
    assert plain == binary == batch
    assert len(await tunings(studio)) == 1


async def test_a_message_of_the_bus_that_is_none_is_answered_once_with_the_reason(studio: Rig) -> None:
    for _ in range(3):
        await heard(studio, {}, b"{", place="INBOUND/7")
        await heard(studio, {}, json.dumps({"id": "n9", "specversion": "1.0"}).encode(), place="INBOUND/8")
    told = await refusals(studio)
    assert [(refusal["id"], refusal["error"]["code"]) for refusal in told] == [
        ("", "not_json"), ("n9", "attribute_missing"),
    ]  # fmt: skip


async def test_a_project_that_is_not_there_hears_nothing(studio: Rig) -> None:
    desk = studio.studio.task_routes
    assert await studio.write(lambda tx: hear(tx, "prj_none", {}, b"{", desk, place="1")) == []


def test_an_event_of_a_newer_kind_may_carry_extensions() -> None:
    event = cloudevents.event_of({**EVENT, "myextension": 5, "subject": "s", "dataschema": "https://x.example/s"})
    assert (event.id, event.data) == ("n1", {})


def test_what_is_no_object_is_no_event() -> None:
    for said in ([], "x", None, 5):
        with pytest.raises(FineryError):
            cloudevents.event_of(said)
