"""Commands of where data comes from: what they ask for, what they show of it, and that no secret is shown again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import finery.resources.datasets as dataset_client
import finery.resources.uploads as upload_client
from tests.cli.test_commands import AT, PAGE, TASK, point_at, run

GRANT: dict[str, Any] = {
    "id": "grant_1", "project": "prj_1", "action": "read", "resource": "s3://data/train",
    "target": {"kind": "user", "name": "anna"}, "version": 1, "created_by": "ann", "created_at": AT,
    "expires_at": "2026-11-22T08:00:00Z",
}  # fmt: skip
OPEN = {**GRANT, "id": "grant_2", "resource": "file:///data", "target": {"kind": "everyone"}, "expires_at": None}
CONNECTION: dict[str, Any] = {
    "id": "con_1", "project": "prj_1", "name": "lake", "hint": "AKIA…", "version": 1, "created_by": "ann",
    "created_at": AT, "endpoint": {"kind": "s3", "url": "https://s3.example.com"},
}  # fmt: skip
BOOKS = {**CONNECTION, "id": "con_2", "name": "books", "endpoint": {"kind": "postgres", "host": "db.example.com"}}
UPLOAD: dict[str, Any] = {
    "id": "upl_1", "project": "prj_1", "filename": "train.jsonl", "size_bytes": 12_000_000, "offset": 5_000_000,
    "state": "receiving", "location": "/api/v1/uploads/upl_1", "created_by": "ann", "created_at": AT, "expires_at": AT,
}  # fmt: skip
DATASET: dict[str, Any] = {
    "id": "ds_1", "project": "prj_1", "name": "train", "filename": "train", "purpose": "fine-tune", "size_bytes": 9,
    "sha256": "a" * 64, "state": "ready", "version": 2, "created_by": "ann", "created_at": AT, "task": "task_1",
    "records": 70,
}  # fmt: skip


class Installation:
    """Keeps what it was asked for, and takes an upload in."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.bytes = b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        noun, _, name = request.url.path.removeprefix("/api/v1/").partition("/")
        if noun == "uploads":
            return self._upload(request, name)
        if request.method != "GET":
            said: Any = json.loads(request.content) if request.content else dict(request.url.params)
            self.asked.append((request.method, request.url.path, said))
        views = {"grants": [GRANT, OPEN], "connections": [CONNECTION, BOOKS]}
        if request.method == "DELETE":
            return httpx.Response(200, json={"deleted": 2}) if not name else httpx.Response(204)
        if noun in views and not name and request.method == "GET":
            return httpx.Response(200, json={"data": views[noun], **PAGE})
        found = {"grants": GRANT, "connections": CONNECTION, "datasets": DATASET, "tasks": TASK}[noun]
        return httpx.Response(200, json=found)

    def _upload(self, request: httpx.Request, name: str) -> httpx.Response:
        if request.method == "GET" and not name:
            return httpx.Response(200, json={"data": [UPLOAD], **PAGE})
        if request.method in ("POST", "DELETE"):
            self.asked.append((request.method, request.url.path, dict(request.headers)))
        if request.method == "PATCH":
            assert int(request.headers["upload-offset"]) == len(self.bytes)
            self.bytes += request.content
        size = UPLOAD["size_bytes"] if not self.asked else int(self.asked[0][2].get("upload-length", 12_000_000))
        state = "received" if len(self.bytes) == size else "receiving"
        return httpx.Response(200, json={**UPLOAD, "size_bytes": size, "offset": len(self.bytes), "state": state})


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Installation:
    installation = Installation()
    point_at(monkeypatch, installation)
    return installation


def test_grants_are_listed_with_whom_and_how_long_they_are_for(house: Installation) -> None:
    shown = run("grants", "list").output
    for word in ("grant_1", "s3://data/train", "user anna", "everyone", "for ever"):
        assert word in shown
    listed = [json.loads(line) for line in run("grants", "list", "--json").stdout.splitlines()]
    assert [grant["target"]["name"] for grant in listed] == ["anna", None]
    assert json.loads(run("grants", "show", "grant_1", "--json").stdout)["resource"] == "s3://data/train"


def test_a_grant_is_given_narrowed_and_taken_away(house: Installation) -> None:
    given = run("grants", "give", "read", "s3://data/train", "--for", "user", "--name", "anna", "--days", "1")
    assert given.exit_code == 0, given.output
    run("grants", "narrow", "grant_1", "--resource", "s3://data/train/2026", "--days", "3")
    run("grants", "delete", "grant_1")
    assert house.asked == [
        ("POST", "/api/v1/grants", {
            "action": "read", "resource": "s3://data/train", "target": {"kind": "user", "name": "anna"}, "days": 1,
            "description": "",
        }),
        ("PATCH", "/api/v1/grants/grant_1", {"resource": "s3://data/train/2026", "days": 3}),
        ("DELETE", "/api/v1/grants/grant_1", {}),
    ]  # fmt: skip
    assert run("grants", "give", "steal", "s3://data").exit_code == 2
    assert run("grants", "give", "read", "s3://data", "--days", "0").exit_code == 2


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("grants", "clear"), ("DELETE", "/api/v1/grants", {"confirm": "DELETE"})),
        (("connections", "delete", "lake"), ("DELETE", "/api/v1/connections/lake", {"confirm": "DELETE"})),
    ],
)
def test_what_cannot_be_undone_asks_for_the_word(
    house: Installation, words: tuple[str, ...], asked: tuple[str, str, Any]
) -> None:
    refused = run(*words, "--confirm", "yes")
    assert (refused.exit_code, house.asked) == (2, [])
    assert run(*words, "--confirm", "DELETE").exit_code == 0
    assert house.asked == [asked]


def test_connections_are_listed_by_their_places(house: Installation) -> None:
    shown = run("connections", "list").output
    for word in ("lake", "https://s3.example.com", "AKIA…", "books", "db.example.com", "postgres"):
        assert word in shown


def test_a_connection_is_registered_and_its_secret_is_not_repeated(
    house: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-the-lake")
    dsn = "postgresql://reader:s3cr3t-of-the-books@db.example.com/books"
    done = [
        run("connections", "add-s3", "lake", "--endpoint", "https://s3.example.com", "--region", "eu-west-1"),
        run("connections", "add-postgres", "books", "--dsn", dsn),
        run("connections", "add-sqlite", "shop", "file:///data/shop.sqlite"),
    ]
    assert [one.exit_code for one in done] == [0, 0, 0], [one.output for one in done]
    assert all("s3cr3t" not in one.output for one in done)
    assert [body for _, _, body in house.asked] == [
        {"kind": "s3", "name": "lake", "endpoint": "https://s3.example.com", "region": "eu-west-1",
         "access_key": "AKIAEXAMPLE", "secret_key": "s3cr3t-of-the-lake"},
        {"kind": "postgres", "name": "books", "dsn": dsn},
        {"kind": "sqlite", "name": "shop", "path": "file:///data/shop.sqlite"},
    ]  # fmt: skip


def test_uploads_are_listed_with_how_far_they_are_and_given_up(house: Installation) -> None:
    shown = run("uploads", "list").output
    for word in ("upl_1", "train.jsonl", "5,000,000 of", "12,000,000"):
        assert word in shown
    assert json.loads(run("uploads", "list", "--json").stdout)["offset"] == 5_000_000
    assert json.loads(run("uploads", "delete", "upl_1", "--json").stdout) == {"id": "upl_1", "deleted": True}
    (method, path, headers), = house.asked  # fmt: skip
    assert (method, path, headers["tus-resumable"]) == ("DELETE", "/api/v1/uploads/upl_1", "1.0.0")


def test_a_dataset_is_fetched_from_a_url_or_from_a_source_as_json(house: Installation) -> None:
    plain = run("datasets", "fetch", "s3://data/train", "--name", "train", "--skip-bad", "--ceiling", "0.05")
    assert plain.exit_code == 0, plain.output
    source = {"kind": "sql", "connection": "books", "query": "select * from chats"}
    told = run("datasets", "fetch", json.dumps(source), "--format", "csv", "--no-wait", "--json")
    assert json.loads(told.stdout)["records"] == 70
    assert [body for method, _, body in house.asked if method == "POST"] == [
        {"source": "s3://data/train", "format": "auto", "bad_records": "skip", "bad_ceiling": 0.05, "name": "train"},
        {"source": source, "format": "csv", "bad_records": "strict", "bad_ceiling": 0.01},
    ]
    broken = run("datasets", "fetch", '{"kind": "sql",')
    assert (broken.exit_code, "no JSON" in broken.stderr) == (2, True)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_large_file_goes_in_pieces_and_goes_on_where_it_was(
    house: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resumed: bool
) -> None:
    monkeypatch.setattr(dataset_client, "RESUMABLE_BYTES", 1_000)
    monkeypatch.setattr(upload_client, "PIECE", 700)
    monkeypatch.setitem(UPLOAD, "size_bytes", 2_000)
    file = tmp_path / "train.jsonl"
    file.write_bytes(content := bytes(n % 251 for n in range(2_000)))
    house.bytes = content[:600] if resumed else b""

    done = run("datasets", "upload", str(file), "--name", "chats", "--no-wait", *(["--resume"] if resumed else []))

    assert done.exit_code == 0, done.output
    assert house.bytes == content
    begun = [headers for method, path, headers in house.asked if path == "/api/v1/uploads" and method == "POST"]
    assert len(begun) == (0 if resumed else 1)
    if begun:
        named = base64.b64encode(b"train.jsonl").decode()
        assert (begun[0]["upload-length"], begun[0]["upload-metadata"]) == ("2000", f"filename {named}")
    made = house.asked[-1]
    assert made[:2] == ("POST", "/api/v1/datasets")
    assert (made[2]["source"], made[2]["name"]) == ({"kind": "upload", "upload": "upl_1"}, "chats")
