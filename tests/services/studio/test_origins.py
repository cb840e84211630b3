"""Sources that are fetched: checked at submit, sealed at rest, opened for the worker that claims alone."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import select
from studio_posts import Owner
from studio_rig import OUTPUTS, Rig, code_of, studio_rig

from finery_contracts.datasets import DatasetState
from finery_contracts.jobs import IngestOutput, IngestSpec, TaskKind
from finery_contracts.sources import FetchedBytes
from finery_contracts.work import Claim
from finery_kit.delivery import OutboxRow
from finery_studio.connections.origins import SELECT
from finery_studio.tasks import store as task_store

SECRET = "s3cr3t-of-the-lake"  # what must be found nowhere
STORE = {
    "kind": "s3", "name": "lake", "endpoint": "https://93.184.215.14", "access_key": "AKIAEXAMPLE",
    "secret_key": SECRET,
}  # fmt: skip


async def granted(api: httpx.AsyncClient, resource: str, **said: Any) -> dict[str, Any]:
    answer = await api.post("/api/v1/grants", json={"action": "read", "resource": resource, **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def connected(api: httpx.AsyncClient, **said: Any) -> dict[str, Any]:
    answer = await api.post("/api/v1/connections", json={**STORE, **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


def ingest(source: Any, **said: Any) -> dict[str, Any]:
    return {"kind": "ingest", "source": source, **said}


async def claimed(studio: Rig, request_id: str = "") -> Claim:
    claim = await studio.claim(TaskKind.INGEST, request_id=request_id)
    assert claim is not None
    return claim


async def everything_kept(studio: Rig) -> str:
    """All that lies in the database and may be shown, said or logged."""

    def read(session: Any) -> str:
        parts = [
            row.model_dump_json()
            for kind in (task_store.TaskRow, task_store.ClaimRow)
            for row in session.exec(select(kind))
        ]
        return "\n".join([*parts, *(row.body.decode() for row in session.exec(select(OutboxRow)))])

    return await studio.read(read)


async def test_a_dataset_of_an_object_store_is_fetched_with_a_secret_that_is_kept_nowhere(studio: Rig) -> None:
    async with studio.http() as api:
        made = await connected(api)
        await granted(api, "s3://data/train")
        task = (await api.post("/api/v1/tasks", json=ingest("s3://data/train/a.jsonl", output="mine"))).json()
        shown = (await api.get("/api/v1/datasets/mine")).json()
    claim, again = await claimed(studio, "req_1"), await claimed(studio, "req_1")
    assert again == claim
    assert isinstance(claim.spec, IngestSpec)
    assert claim.spec.origin is not None
    assert claim.spec.origin.secret == {"access_key": "AKIAEXAMPLE", "secret_key": SECRET}
    assert claim.spec.origin.endpoint is not None
    assert claim.spec.origin.endpoint.url == "https://93.184.215.14"
    assert (shown["state"], shown["origin"]["url"], shown["filename"]) == (
        "fetching", "s3://data/train/a.jsonl", "a.jsonl",
    )  # fmt: skip
    assert SECRET not in await everything_kept(studio) + str(made) + str(task) + str(shown)
    database = b"".join(
        path.read_bytes() for path in Path(studio.studio.settings.home).rglob("*") if path.is_file()
    )  # fmt: skip
    assert SECRET.encode() not in database
    assert await studio.said(shown["id"]) == ["dataset.registered"]


async def test_what_came_is_recorded_and_makes_the_dataset_ready(studio: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    came = FetchedBytes(files=2, size_bytes=77, sha256="d" * 64)
    output = IngestOutput(format="openai", records=5, bad_records=0, content_sha256="c" * 64, fetched=came)
    monkeypatch.setitem(OUTPUTS, TaskKind.INGEST, output)
    async with studio.http() as api:
        await granted(api, "https://example.com")
        source = "https://example.com/train.jsonl?X-Amz-Signature=t0ken"
        made = (await api.post("/api/v1/datasets", json={"source": source, "name": "web"})).json()
        claim = await claimed(studio)
        await studio.end(claim)
        ready = (await api.get("/api/v1/datasets/web")).json()
        content = await api.get(f"/v1/files/file-{made['id'].split('_')[1]}/content")
        settings = (await api.get(f"/api/v1/tasks/{made['task']}/settings")).json()
        again = await api.post("/api/v1/tasks", json=settings)
    assert isinstance(claim.spec, IngestSpec)
    assert claim.spec.origin is not None
    assert claim.spec.origin.source.url == source  # type: ignore[union-attr]
    assert (ready["state"], ready["sha256"], ready["size_bytes"]) == ("ready", "d" * 64, 77)
    assert (ready["origin"]["kind"], ready["origin"]["url"]) == ("http", "https://example.com/train.jsonl?***")
    assert code_of(content) == (409, "bytes_elsewhere")
    assert again.status_code == 201
    repeated = (await claimed(studio)).spec
    assert isinstance(repeated, IngestSpec)
    assert repeated.origin is not None
    assert repeated.origin.source.url == source  # type: ignore[union-attr]
    assert "t0ken" not in await everything_kept(studio) + str(ready) + str(settings)


@pytest.mark.parametrize(
    ("source", "permission"),
    [
        ("s3://data/other/a.jsonl", "read s3://data/other/a.jsonl"),
        ("https://example.com:443/x/", "read https://example.com/x"),
        ({"kind": "sql", "connection": "books", "query": "select 1 as n"}, "read sql://books"),
    ],
)
async def test_what_no_grant_allows_fails_at_submit_and_names_what_is_missing(
    studio: Rig, source: Any, permission: str
) -> None:
    async with studio.http() as api:
        await connected(api)
        dsn = "postgresql://u:p@93.184.215.14/db"
        books = await api.post("/api/v1/connections", json={"kind": "postgres", "name": "books", "dsn": dsn})
        assert books.status_code == 201, books.text
        await granted(api, "s3://data/train")
        await granted(api, "https://example.com", target={"kind": "user", "name": "anna"})
        for path, body in (("/api/v1/tasks", ingest(source)), ("/api/v1/datasets", {"source": source})):
            answer = await api.post(path, json=body)
            assert code_of(answer) == (403, "grant_missing")
            assert answer.json()["error"]["details"][0]["permission"] == permission
    assert await studio.claim() is None


async def test_a_group_s_grant_holds_for_the_keys_of_its_members(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        await granted(api, "https://example.com", target={"kind": "group", "name": "data"})
        keys = [
            (await api.post("/api/v1/keys", json={"role": "common", "user": user, "groups": groups})).json()["secret"]
            for user, groups in (("anna", ["data"]), ("bert", ["other"]))
        ]
    answers = list[int]()
    for key in keys:
        async with studio.http(key) as api:
            answers.append((await api.post("/api/v1/tasks", json=ingest("https://example.com/a"))).status_code)
            refused = await api.post("/api/v1/keys", json={"role": "common", "groups": ["data"]})
            assert refused.status_code == 403
    assert answers == [201, 403]


async def test_a_grant_or_connection_that_went_while_the_task_waited_opens_nothing(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        grant = await granted(api, "s3://data")
        for name in ("one", "two"):
            answer = await api.post("/api/v1/tasks", json=ingest("s3://data/a", output=name))
            assert answer.status_code == 201, answer.text
        await api.delete("/api/v1/connections/lake", params={"confirm": "DELETE"})
        first = (await claimed(studio)).spec
        await api.delete(f"/api/v1/grants/{grant['id']}")
        second = (await claimed(studio)).spec
    for spec, reason in ((first, "connection"), (second, "no grant")):
        assert isinstance(spec, IngestSpec)
        assert spec.origin is not None
        assert (spec.origin.secret, reason in (spec.origin.denied or "")) == (None, True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://[::1]/x", "http://169.254.169.254/latest", "http://0x7f.1/x", "http://10.0.0.1:80/",
        "http://user:pass@example.com/x", "http://2130706433/", "https://exa mple.com/",
    ],
)  # fmt: skip
async def test_an_internal_address_is_refused_at_submit(studio: Rig, url: str) -> None:
    async with studio.http() as api:
        answer = await api.post("/api/v1/tasks", json=ingest(url))
        endpoint = await api.post("/api/v1/connections", json={**STORE, "endpoint": url})
    assert code_of(answer) == (400, "url_not_allowed")
    assert endpoint.status_code == 400


@pytest.mark.parametrize("path", ["https://example.com/a/%2e%2e/b", "https://example.com/%252e%252e/b"])
async def test_a_path_that_climbs_is_refused(studio: Rig, path: str) -> None:
    async with studio.http() as api:
        await granted(api, "https://example.com")
        assert code_of(await api.post("/api/v1/tasks", json=ingest(path))) == (400, "url_invalid")


async def test_files_are_read_under_a_root_alone_and_links_do_not_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "a.jsonl").write_text("{}\n")
    (root / "link").symlink_to(outside / "a.jsonl")
    (root / "inner").symlink_to(root / "a.jsonl")
    studio = await studio_rig(tmp_path / "home", allowed_roots=[root])
    async with studio.http() as api:
        await granted(api, f"file://{root}")
        await granted(api, f"file://{outside}")
        for place in (outside, root / "link", f"{root}-x", "/etc/passwd", "/nowhere"):
            assert code_of(await api.post("/api/v1/tasks", json=ingest(f"file://{place}"))) == (403, "path_not_allowed")
        gone = await api.post("/api/v1/tasks", json=ingest(f"file://{root}/none"))
        climbs = await api.post("/api/v1/tasks", json=ingest(f"file://{root}/../outside/a.jsonl"))
        for place in (root, root / "inner"):
            assert (await api.post("/api/v1/tasks", json=ingest(f"file://{place}"))).status_code == 201
        logs = ingest({"kind": "logs", "url": f"file://{root}/*.jsonl"})
        assert (await api.post("/api/v1/tasks", json=logs)).status_code == 201
    assert code_of(gone) == (400, "path_not_found")
    assert climbs.status_code == 400
    specs = [(await claimed(studio)).spec for _ in range(3)]
    sources = [spec.origin.source.url for spec in specs if isinstance(spec, IngestSpec) and spec.origin]  # type: ignore[union-attr]
    assert sources == [f"file://{root}", f"file://{root}/a.jsonl", f"file://{root}/*.jsonl"]
    studio.studio.database.close()


async def test_an_sqlite_connection_lies_under_a_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    sqlite3.connect(root / "a.sqlite").close()
    os.symlink("/etc/passwd", root / "link")
    studio = await studio_rig(tmp_path / "home", allowed_roots=[root])
    async with studio.http() as api:
        for place, status in ((root / "a.sqlite", 201), (root / "link", 403), ("/etc/passwd", 403), (root, 400)):
            body = {"kind": "sqlite", "name": f"c{status}{len(str(place))}", "path": f"file://{place}"}
            answer = await api.post("/api/v1/connections", json=body)
            assert answer.status_code == status, answer.text
    studio.studio.database.close()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p4ss@93.184.215.14/db?service=x", "postgresql://u:p4ss@93.184.215.14/db?sslkey=/etc/key",
        "postgresql://u:p4ss@/db?host=/var/run", "mysql://u:p4ss@93.184.215.14/db", "host=93.184.215.14 password=p4ss",
        "postgresql://u:p4ss@127.0.0.1/db", "postgresql://u:p4ss@10.1.2.3:5432/db",
    ],
)  # fmt: skip
async def test_a_dsn_that_is_odd_or_leads_inside_is_refused_without_being_repeated(studio: Rig, dsn: str) -> None:
    async with studio.http() as api:
        answer = await api.post("/api/v1/connections", json={"kind": "postgres", "name": "db", "dsn": dsn})
    assert answer.status_code == 400
    assert "p4ss" not in answer.text


@pytest.mark.parametrize("wrong", [{"secret_key": ""}, {"region": "EU!"}, {"unknown": "x"}, {"name": "1 2"}])
async def test_a_wrong_connection_s_secret_is_not_repeated(studio: Rig, wrong: dict[str, Any]) -> None:
    async with studio.http() as api:
        answer = await api.post("/api/v1/connections", json={**STORE, **wrong})
    assert answer.status_code == 400
    assert SECRET not in answer.text


async def test_connections_are_made_by_the_role_full_and_seen_without_secrets(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        made = await connected(api)
        key = (await api.post("/api/v1/keys", json={"role": "common", "user": "anna"})).json()["secret"]
        other = (await api.post("/api/v1/projects", json={"name": "other"})).json()["key"]["secret"]
        double = await api.post("/api/v1/connections", json=STORE)
    async with studio.http(key) as api:
        refused = await api.post("/api/v1/connections", json={**STORE, "name": "two"})
        seen = (await api.get("/api/v1/connections")).json()["data"]
    async with studio.http(other) as api:
        foreign = await api.get("/api/v1/connections/lake")
        used = await api.post(
            "/api/v1/tasks", json=ingest({"kind": "s3", "url": "s3://data/a", "connection": made["id"]})
        )
    assert (code_of(double), refused.status_code, seen) == ((409, "name_taken"), 403, [made])
    assert (foreign.status_code, code_of(used)) == (404, (404, "connection_not_found"))
    assert await studio.said(made["id"]) == ["connection.registered"]


async def test_a_query_that_is_no_select_and_a_source_that_is_none_are_refused(studio: Rig) -> None:
    wrong = [
        {"kind": "sql", "connection": "lake", "query": "select 1"},
        {"kind": "s3", "url": "s3://data/../x"},
        {"kind": "logs", "url": "file:///a/*.log", "pattern": "("},
        {"kind": "logs", "url": "file:///a/*.log", "pattern": "no groups"},
        {"kind": "ftp", "url": "ftp://x"},
        "ftp://example.com/x",
        {"kind": "upload", "upload": "upl_none"},
    ]
    async with studio.http() as api:
        await connected(api)
        answers = [await api.post("/api/v1/tasks", json=ingest(source)) for source in wrong]
        both = await api.post("/api/v1/tasks", json=ingest("s3://data/a", dataset="x"))
        neither = await api.post("/api/v1/tasks", json={"kind": "ingest"})
    assert {answer.status_code for answer in (*answers, both, neither)} <= {400, 404}
    assert await studio.claim() is None


@pytest.mark.parametrize(
    ("query", "reads"),
    [
        ("-- all of it\nselect 1", True),
        ("/* all; delete */ (SELECT 1) union (select 2)", True),
        ("values (1)", True),
        ("/* select */ delete from t", False),
        ("-- select 1", False),
        ("selected", False),
        ("/**/" * 5_000 + "x", False),
        ("/*" * 10_000, False),
    ],
    ids=lambda said: str(said)[:20],
)
def test_comments_and_brackets_may_stand_before_a_query(query: str, reads: bool) -> None:
    assert bool(SELECT.match(query)) is reads


async def test_an_upstream_event_names_a_source_and_a_missing_grant_is_its_answer(studio: Rig) -> None:
    event = {
        "specversion": "1.0", "id": "n1", "source": "warehouse", "type": "io.finery.task.requested.v1",
        "data": ingest("s3://data/new", output="new"),
    }  # fmt: skip
    headers = {"content-type": "application/cloudevents+json"}
    async with studio.http() as api:
        await connected(api)
        refused = await api.post("/api/v1/inbound", json=event, headers=headers)
        await granted(api, "s3://data", target={"kind": "user", "name": "event:warehouse"})
        made = await api.post("/api/v1/inbound", json={**event, "id": "n2"}, headers=headers)
    assert code_of(refused) == (403, "grant_missing")
    assert (await studio.task(made.json()["task"])).kind is TaskKind.INGEST
    assert (await studio.dataset("new")).state is DatasetState.FETCHING
