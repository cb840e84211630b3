"""Weights from object stores: granted or refused at submit, sealed at rest, opened for the worker that claims alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from repair_rig import a_repair, fault
from sqlmodel import select
from studio_rig import GALLERY_MODEL, Rig, code_of, studio_rig

from finery_contracts.access import Role
from finery_contracts.errors import Forbidden
from finery_contracts.jobs import ImportOutput, ImportSpec, TaskKind
from finery_contracts.models import ModelState
from finery_contracts.sources import FetchedBytes, Origin, PlaceView
from finery_contracts.tasks import EndReason
from finery_contracts.work import Claim
from finery_kit.delivery import OutboxRow
from finery_studio.models.requests import NewModel
from finery_studio.tasks import store as task_store

SECRET = "s3cr3t-of-the-lake"  # what must be found nowhere
STORE = {
    "kind": "s3", "name": "lake", "endpoint": "https://93.184.215.14", "access_key": "AKIAEXAMPLE",
    "secret_key": SECRET,
}  # fmt: skip
PLACE = "s3://weights/tiny"


async def connected(api: httpx.AsyncClient, **said: Any) -> dict[str, Any]:
    answer = await api.post("/api/v1/connections", json={**STORE, **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def granted(api: httpx.AsyncClient, resource: str = PLACE, **said: Any) -> dict[str, Any]:
    answer = await api.post("/api/v1/grants", json={"action": "read", "resource": resource, **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def asked(api: httpx.AsyncClient, name: str = "mine", **source: Any) -> httpx.Response:
    return await api.post("/api/v1/models", json={"name": name, "source": source or {"url": PLACE}})


async def claimed(studio: Rig, request_id: str = "") -> Claim:
    claim = await studio.claim(TaskKind.IMPORT, request_id=request_id)
    assert claim is not None
    return claim


def spec_of(claim: Claim) -> ImportSpec:
    assert isinstance(claim.spec, ImportSpec)
    return claim.spec


def origin_of(claim: Claim) -> Origin:
    origin = spec_of(claim).origin
    assert origin is not None
    return origin


async def everything_told(studio: Rig) -> str:
    """Tasks, kept answers to claims, and facts."""

    def read(session: Any) -> str:
        kinds = (task_store.TaskRow, task_store.ClaimRow)
        rows = [row.model_dump_json() for kind in kinds for row in session.exec(select(kind))]
        return "\n".join([*rows, *(row.body.decode() for row in session.exec(select(OutboxRow)))])

    return await studio.read(read)


def a_folder(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return place


async def test_a_model_of_an_object_store_is_fetched_with_a_secret_that_is_kept_nowhere(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        await granted(api, "s3://weights")
        made = await asked(api, url=PLACE, connection="lake")
        task = (await api.get(f"/api/v1/tasks/{made.json()['tasks'][0]}")).json()
    claim, again = await claimed(studio, "req_1"), await claimed(studio, "req_1")

    assert made.status_code == 201, made.text
    assert again == claim
    origin = origin_of(claim)
    assert origin.secret == {"access_key": "AKIAEXAMPLE", "secret_key": SECRET}
    assert (origin.endpoint.url if origin.endpoint else "", origin.source.url) == (STORE["endpoint"], PLACE)
    assert origin.limits.max_bytes == studio.studio.settings.max_bundle_bytes
    assert made.json()["origin"] == {
        "kind": "s3", "url": PLACE, "connection": "lake", "query": None, "pattern": None, "fields": {},
    }  # fmt: skip
    assert task["request"]["origin"] == {"kind": "s3", "url": PLACE, "connection": "lake"}
    assert SECRET not in await everything_told(studio) + made.text + str(task)
    home = Path(studio.studio.settings.home)
    told = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert told == []


async def test_what_came_is_validated_and_the_model_says_where_it_came_from(studio: Rig) -> None:
    came = FetchedBytes(files=6, size_bytes=77, sha256="d" * 64)
    output = ImportOutput(
        architecture="llama", parameters=7, size_bytes=9, dtype="bf16", max_length=256, fetched=came
    )  # fmt: skip
    async with studio.http() as api:
        await connected(api)
        await granted(api)
        await asked(api)
    claim = await claimed(studio)

    await studio.end(claim, output=output)
    await studio.work()

    ready = await studio.model("mine")
    assert (ready.state, ready.parameters, ready.max_length) == (ModelState.READY, 7, 256)
    assert ready.origin == PlaceView(kind="s3", url=PLACE)
    async with studio.http() as api:
        graph = (await api.get("/api/v1/models/mine/lineage")).json()
    assert [node["origin"]["url"] for node in graph["nodes"] if node["noun"] == "model"] == [PLACE]
    recorded = (await studio.task(ready.tasks[0])).output
    assert isinstance(recorded, ImportOutput)
    assert recorded.fetched == came


async def test_what_no_grant_allows_fails_at_submit_and_names_what_is_missing(studio: Rig) -> None:
    event = {
        "specversion": "1.0", "id": "n1", "source": "warehouse", "type": "io.finery.task.requested.v1",
        "data": {"kind": "import", "model": "mine", "source": {"url": f"{PLACE}/"}},
    }  # fmt: skip
    headers = {"content-type": "application/cloudevents+json"}
    async with studio.http() as api:
        await connected(api)
        await granted(api, "s3://weights/other")
        await granted(api, PLACE, target={"kind": "user", "name": "anna"})
        by_model = await asked(api, url=f"{PLACE}/")
        by_task = await api.post("/api/v1/tasks", json=event["data"])
        by_event = await api.post("/api/v1/inbound", json=event, headers=headers)
        none = await api.get("/api/v1/models/mine")
        await granted(api, PLACE, target={"kind": "user", "name": "event:warehouse"})
        made = await api.post("/api/v1/inbound", json={**event, "id": "n2"}, headers=headers)
    for answer in (by_model, by_task, by_event):
        assert code_of(answer) == (403, "grant_missing")
        assert answer.json()["error"]["details"][0]["permission"] == f"read {PLACE}"
    assert none.status_code == 404
    assert (await studio.task(made.json()["task"])).kind is TaskKind.IMPORT
    assert origin_of(await claimed(studio)).secret is not None


async def test_a_grant_or_connection_that_went_while_the_task_waited_opens_nothing(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        grant = await granted(api)
        for name in ("one", "two"):
            assert (await asked(api, name)).status_code == 201
        await api.delete("/api/v1/connections/lake", params={"confirm": "DELETE"})
        first = origin_of(await claimed(studio))
        await api.delete(f"/api/v1/grants/{grant['id']}")
        second = origin_of(await claimed(studio))
    for origin, reason in ((first, "connection was deleted"), (second, "no grant")):
        assert (origin.secret, reason in (origin.denied or "")) == (None, True)


async def test_every_further_attempt_asks_anew(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        grant = await granted(api)
        await asked(api)
        first = await claimed(studio)
        await studio.end(first, reason=EndReason.LOST)
        second = await claimed(studio)
        await api.delete(f"/api/v1/grants/{grant['id']}")
        await studio.end(second, reason=EndReason.LOST)
        third = await claimed(studio)
    assert [claim.attempt for claim in (first, second, third)] == [1, 2, 3]
    assert [origin_of(claim).secret is not None for claim in (first, second, third)] == [True, True, False]
    assert "no grant" in (origin_of(third).denied or "")


async def test_a_copy_of_the_task_fetches_from_the_same_place(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        await granted(api)
        made = (await asked(api, url=PLACE, connection="lake")).json()
        settings = (await api.get(f"/api/v1/tasks/{made['tasks'][0]}/settings")).json()
        copied = await api.post(f"/api/v1/tasks/{made['tasks'][0]}/copy", json={"model": "again"})
    assert settings["source"] == {"url": PLACE, "connection": "lake"}
    assert copied.status_code == 201, copied.text
    specs = [origin_of(await claimed(studio)) for _ in range(2)]
    assert specs[0] == specs[1]
    assert (await studio.model("again")).origin == (await studio.model("mine")).origin


async def test_own_weights_of_a_store_can_stand_for_a_gallery_entry(studio: Rig) -> None:
    entry = studio.studio.gallery.entries[GALLERY_MODEL]
    async with studio.http() as api:
        await connected(api)
        await granted(api)
        assert (await asked(api, gallery=GALLERY_MODEL, url=PLACE, gguf_file="q4.gguf")).status_code == 201
    spec = spec_of(await claimed(studio))
    assert (spec.family, spec.overrides, spec.gguf_file) == (entry.family, entry.overrides, "q4.gguf")
    assert spec.origin is not None
    assert ((await studio.model("mine")).gallery, spec.source) == (GALLERY_MODEL, "")


async def test_a_file_url_is_the_same_as_a_path(tmp_path: Path) -> None:
    inside, outside = a_folder(tmp_path / "roots" / "m"), a_folder(tmp_path / "elsewhere")
    studio = await studio_rig(tmp_path / "home", allowed_roots=[tmp_path / "roots"])
    async with studio.http() as api:
        for name, source in (("a", {"path": str(inside)}), ("b", {"url": f"file://{inside}", "gguf_file": "q4.gguf"})):
            assert (await asked(api, name, **source)).status_code == 201
        by_operator = await asked(api, "c", url=f"file://{outside}")
    new = NewModel("d", url=f"file://{outside}")
    with pytest.raises(Forbidden) as refused:
        await studio.write(lambda tx: studio.studio.models.create(tx, new, studio.by(Role.COMMON)))
    specs = [spec_of(await claimed(studio)) for _ in range(3)]
    assert [spec.gguf_file for spec in specs] == [None, "q4.gguf", None]
    assert [(spec.source, spec.origin) for spec in specs] == [(str(inside), None)] * 2 + [(str(outside), None)]
    assert by_operator.status_code == 201
    assert refused.value.error_code == "path_not_allowed"
    for name in ("a", "b"):
        assert (await studio.model(name)).origin == PlaceView(kind="file", url=f"file://{inside}")
    studio.studio.database.close()


REFUSED: list[tuple[dict[str, str], str, str]] = [
    ({"path": PLACE}, "source_unsupported", "source.url"),
    ({"url": "https://example.com/tiny"}, "source_unsupported", "s3://bucket/prefix"),
    ({"url": "weights/tiny"}, "source_unsupported", "s3://bucket/prefix"),
    ({"url": "s3://w/tiny"}, "url_invalid", "bucket"),
    ({"url": "s3://weights/../tiny"}, "url_invalid", ".."),
    ({"url": f"{PLACE}/model.safetensors"}, "not_a_folder", f"{PLACE} "),
    ({"url": f"{PLACE}/llama.Q4_K.GGUF"}, "not_a_folder", f"{PLACE} "),
    ({"url": PLACE, "connection": "books"}, "connection_of_other_kind", "s3"),
    ({"url": PLACE, "path": "/x"}, "invalid_request", "path and url"),
    ({"path": "/x", "connection": "lake"}, "invalid_request", "connection"),
    ({"connection": "lake"}, "invalid_request", "url"),
    ({"gallery": GALLERY_MODEL, "gguf_file": "a.gguf"}, "invalid_request", "path or url"),
]


async def test_a_place_that_is_none_is_refused_at_submit_with_what_to_say_instead(studio: Rig) -> None:
    books = {"kind": "postgres", "name": "books", "dsn": "postgresql://u:p@93.184.215.14/db"}
    async with studio.http() as api:
        await connected(api)
        assert (await api.post("/api/v1/connections", json=books)).status_code == 201
        await granted(api, "s3://weights")
        for source, code, word in REFUSED:
            task = {"kind": "import", "model": "mine", "source": source}
            for answer in (await asked(api, **source), await api.post("/api/v1/tasks", json=task)):
                assert code_of(answer) == (400, code), source
                assert word in answer.json()["error"]["message"]
    assert await studio.claim() is None


async def test_a_folder_whose_name_looks_like_a_file_is_said_with_a_slash(studio: Rig) -> None:
    async with studio.http() as api:
        await connected(api)
        await granted(api, "s3://weights")
        assert (await asked(api, url=f"{PLACE}/llama.gguf/")).status_code == 201
    assert origin_of(await claimed(studio)).source.url == f"{PLACE}/llama.gguf/"  # type: ignore[union-attr]


async def test_without_a_connection_or_with_two_it_is_asked_which(studio: Rig) -> None:
    async with studio.http() as api:
        await granted(api)
        none = await asked(api)
        await connected(api)
        await connected(api, name="pond")
        two, foreign = await asked(api), await asked(api, url=PLACE, connection="elsewhere")
        chosen = await asked(api, url=PLACE, connection="pond")
    assert [code_of(answer) for answer in (none, two)] == [(400, "connection_needed")] * 2
    assert code_of(foreign) == (404, "connection_not_found")
    assert chosen.status_code == 201


async def test_a_refused_import_of_a_store_is_repaired_from_the_same_place_while_a_grant_allows_it(
    studio: Rig,
) -> None:
    sample = "generation_do_sample"
    async with studio.http() as api:
        await connected(api)
        grant = await granted(api)
        await asked(api)
        first = await claimed(studio)
        await studio.end(first, reason=EndReason.USER_MISTAKE, error=fault("remote_code", sample))
        offered = (await api.get("/api/v1/models/mine/repairs")).json()["data"]
        again = await api.post("/api/v1/models/mine/repairs", json={"apply": [sample]})
        second = await claimed(studio)
        output = ImportOutput(
            architecture="llama", parameters=7, size_bytes=9, dtype="bf16", max_length=256, repairs=[a_repair(sample)]
        )  # fmt: skip
        await studio.end(second, output=output)
        await studio.work()
        await api.delete(f"/api/v1/grants/{grant['id']}")
        late = await api.post("/api/v1/models/mine@1/repairs", json={"apply": [sample]})
    assert [(repair["id"], repair["applied"]) for repair in offered] == [(sample, False)]
    assert again.status_code == 201, again.text
    assert (spec_of(first).apply_repairs, spec_of(second).apply_repairs) == ([], [sample])
    assert origin_of(second) == origin_of(first), "the same place, opened with the same secret"
    repaired, refused = await studio.model("mine"), await studio.model("mine@1")
    assert (repaired.state, repaired.number, repaired.lineage["repaired_from"]) == (ModelState.READY, 2, refused.id)
    assert (refused.state, repaired.origin) == (ModelState.INVALID, refused.origin)
    assert [repair.id for repair in repaired.repairs] == [sample]
    assert code_of(late) == (403, "grant_missing")
    assert SECRET not in await everything_told(studio) + again.text
