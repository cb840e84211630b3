"""Resumable uploads: tus to the letter, offsets that are true after any death, and no disk or quota overrun."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from studio_posts import Owner
from studio_rig import Rig, code_of, studio_rig

from finery_contracts.jobs import TaskKind
from finery_kit.db import utc_now
from finery_studio.uploads import handlers, store
from finery_studio.uploads.handlers import locked

PATH = "/api/v1/uploads"
TUS = {"tus-resumable": "1.0.0"}
BYTES = {**TUS, "content-type": "application/offset+octet-stream"}
BODY = b"0123456789" * 100


def b64(said: str) -> str:
    return base64.b64encode(said.encode()).decode()


async def begun(api: httpx.AsyncClient, size: int = len(BODY), **metadata: str) -> str:
    said = ",".join(f"{key} {b64(value)}" for key, value in metadata.items())
    headers = {**TUS, "upload-length": str(size), **({"upload-metadata": said} if said else {})}
    answer = await api.post(PATH, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def send(api: httpx.AsyncClient, at: str, piece: Any, offset: int, **headers: str) -> httpx.Response:
    return await api.patch(at, content=piece, headers={**BYTES, "upload-offset": str(offset), **headers})


async def offset(api: httpx.AsyncClient, at: str) -> int:
    answer = await api.head(at, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def lying(folder: Path) -> list[Path]:
    return [path for path in (folder / "store").rglob("*") if path.is_file()]


async def test_pieces_become_a_file_and_the_file_a_dataset(studio: Rig, tmp_path: Path) -> None:
    async with studio.http() as api:
        at = await begun(api, filename="../x/训练.jsonl", name="mine", format="openai")
        for start in range(0, len(BODY), 300):
            answer = await send(api, at, BODY[start : start + 300], start)
            assert (answer.status_code, int(answer.headers["upload-offset"])) == (204, min(start + 300, len(BODY)))
        upload = (await api.get(at)).json()
        made = await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": upload["id"]}})
        again = await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": upload["id"]}})
        used = (await api.get(at)).json()
    digest = hashlib.sha256(BODY).hexdigest()
    assert (upload["state"], upload["sha256"], upload["filename"]) == ("received", digest, "训练.jsonl")
    dataset = made.json()
    assert (dataset["name"], dataset["sha256"], dataset["size_bytes"]) == ("mine", digest, len(BODY))
    assert (code_of(again), used["dataset"]) == ((409, "upload_used"), dataset["id"])
    assert [path.read_bytes() for path in lying(tmp_path)] == [BODY]
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    assert studio.studio.storage.path(claim.spec.source).read_bytes() == BODY  # type: ignore[union-attr]


async def test_one_that_says_so_becomes_a_dataset_by_its_last_byte(studio: Rig) -> None:
    async with studio.http() as api:
        at = await begun(api, 3, filename="a.jsonl", ingest="true", bad_records="skip", bad_ceiling="0.5")
        assert await studio.claim() is None
        await send(api, at, b"abc", 0)
        view = (await api.get(at)).json()
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    assert (claim.spec.bad_records, claim.spec.bad_ceiling) == ("skip", 0.5)  # type: ignore[union-attr]
    assert (await studio.dataset("a.jsonl")).id == view["dataset"]


async def test_bytes_may_come_with_the_first_request(studio: Rig) -> None:
    async with studio.http() as api:
        headers = {**BYTES, "upload-length": "10", "upload-checksum": "sha1 " + b64("x")}
        wrong = await api.post(PATH, content=b"01234", headers=headers)
        headers["upload-checksum"] = f"sha1 {base64.b64encode(hashlib.sha1(b'01234').digest()).decode()}"
        right = await api.post(PATH, content=b"01234", headers=headers)
        rest = await send(api, right.headers["location"], b"56789", 5)
        view = (await api.get(right.headers["location"])).json()
    assert code_of(wrong) == (460, "checksum_mismatch")
    assert (right.status_code, right.headers["upload-offset"], rest.status_code) == (201, "5", 204)
    assert view["sha256"] == hashlib.sha256(b"0123456789").hexdigest()


async def test_a_client_that_can_only_post_says_which_method_it_means(studio: Rig) -> None:
    async with studio.http() as api:
        made = await api.post(PATH, headers={**TUS, "upload-length": "10"})
        place = made.headers["location"]
        sent = await api.post(
            place, content=b"01234", headers={**BYTES, "upload-offset": "0", "x-http-method-override": "PATCH"}
        )
        asked = await api.post(place, headers={**TUS, "x-http-method-override": "HEAD"})
        plain = await api.post(place, headers={**TUS, "x-http-method-override": "PUT"})
        ended = await api.post(place, headers={**TUS, "x-http-method-override": "DELETE"})
        gone = await api.head(place, headers=TUS)
    assert [sent.status_code, asked.status_code, ended.status_code] == [204, 200, 204]
    assert (sent.headers["upload-offset"], asked.headers["upload-offset"]) == ("5", "5")
    assert code_of(plain) == (405, "method_not_allowed")
    assert gone.status_code in (404, 410)


async def test_options_say_what_is_spoken_without_a_key(studio: Rig) -> None:
    async with studio.http("nobody") as api:
        answer = await api.options(PATH)
    assert (answer.status_code, answer.headers["tus-version"]) == (204, "1.0.0")
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation", "creation-with-upload", "termination", "checksum", "expiration",
    }  # fmt: skip


class Wrong(NamedTuple):
    change: dict[str, str]
    status: int
    code: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong({"tus-resumable": "0.2.2"}, 412, "version_unsupported"),
        Wrong({"content-type": "application/json"}, 415, "media_type_unsupported"),
        Wrong({"upload-offset": "1"}, 409, "offset_mismatch"),
        Wrong({"upload-offset": "-1"}, 400, "header_invalid"),
        Wrong({"upload-offset": "1e3"}, 400, "header_invalid"),
        Wrong({"upload-checksum": "crc32 AAAA"}, 400, "checksum_unsupported"),
        Wrong({"upload-checksum": "sha1 !!!"}, 400, "checksum_invalid"),
        Wrong({"upload-checksum": "sha256 AAAA"}, 460, "checksum_mismatch"),
    ],
)
async def test_a_piece_that_is_wrong_is_refused_and_counts_for_nothing(studio: Rig, wrong: Wrong) -> None:
    async with studio.http() as api:
        at = await begun(api)
        answer = await api.patch(at, content=b"abc", headers={**BYTES, "upload-offset": "0", **wrong.change})
        assert code_of(answer) == (wrong.status, wrong.code)
        assert answer.headers["tus-resumable"] == "1.0.0"
        assert await offset(api, at) == 0


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "header_invalid"),
        ({"upload-length": "-1"}, "header_invalid"),
        ({"upload-length": "0"}, "file_empty"),
        ({"upload-defer-length": "1"}, "length_deferred"),
        ({"upload-length": str(10**17)}, "file_too_large"),
        ({"upload-length": "1", "upload-metadata": "name nobase64!"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": "name AA==,name AA=="}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": f"bad_records {b64('maybe')}"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": f"format {b64('prose')}"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": f"bad_ceiling {b64('much')}"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": f"bad_ceiling {b64('1.5')}"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": f"bad_ceiling {b64('nan')}"}, "metadata_invalid"),
        ({"upload-length": "1", "upload-metadata": "a " + "A" * 5000}, "metadata_invalid"),
    ],
)
async def test_an_upload_that_cannot_be_is_refused_before_it_begins(
    studio: Rig, headers: dict[str, str], code: str
) -> None:
    async with studio.http() as api:
        answer = await api.post(PATH, headers={**TUS, **headers})
        assert answer.json()["error"]["code"] == code
        assert (await api.get(PATH)).json()["data"] == []


async def test_more_than_announced_is_refused_and_nothing_of_it_stays(studio: Rig) -> None:
    async with studio.http() as api:
        at = await begun(api, 10)
        assert code_of(await send(api, at, b"x" * 11, 0)) == (413, "too_large")
        assert await offset(api, at) == 0
        assert (await send(api, at, b"0123456789", 0)).status_code == 204


async def test_what_came_before_the_line_broke_is_kept(studio: Rig) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield BODY[:400]
        raise ConnectionError("the line is cut")

    async with studio.http() as api:
        at = await begun(api)
        row = at.rpartition("/")[2]
        with pytest.raises(ConnectionError):
            await studio.studio.uploads.receive(studio.actor.project, row, breaks(), offset=0, checksum=None)
        assert await offset(api, at) == 0  # an error of ours counts for nothing

        async def silent() -> AsyncIterator[bytes]:
            yield BODY[:400]
            await asyncio.Event().wait()

        handlers.SILENCE_S, before = 0.05, handlers.SILENCE_S
        try:
            answer = await send(api, at, silent(), 0)
        finally:
            handlers.SILENCE_S = before
        assert answer.status_code == 408
        assert await offset(api, at) == 400
        assert (await send(api, at, BODY[400:], 400)).status_code == 204
        assert (await api.get(at)).json()["sha256"] == hashlib.sha256(BODY).hexdigest()


async def test_only_what_is_counted_is_believed_after_a_death(studio: Rig, tmp_path: Path) -> None:
    """A killed studio may leave bytes that were never flushed, or a tail of zeros: they are written anew."""
    async with studio.http() as api:
        at = await begun(api)
        await send(api, at, BODY[:500], 0)
        part = studio.studio.storage.incoming(studio.actor.project, at.rpartition("/")[2])
        with part.open("ab") as file:
            file.write(b"\0" * 300)
        assert await offset(api, at) == 500
        assert (await send(api, at, BODY[500:], 500)).status_code == 204
    assert [path.read_bytes() for path in lying(tmp_path)] == [BODY]


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    first = await studio_rig(tmp_path)
    async with first.http() as api:
        at = await begun(api)
        await send(api, at, BODY[:500], 0)
    first.studio.database.close()
    second = await studio_rig(tmp_path)
    async with second.http() as api:
        assert await offset(api, at) == 500
        assert (await send(api, at, BODY[500:], 500)).status_code == 204
        assert (await api.get(at)).json()["sha256"] == hashlib.sha256(BODY).hexdigest()
    second.studio.database.close()


async def test_one_that_died_before_it_was_hashed_is_finished_later(studio: Rig) -> None:
    async with studio.http() as api:
        at = await begun(api, 3)
        upload, project = at.rpartition("/")[2], studio.actor.project
        studio.studio.storage.incoming(project, upload).write_bytes(b"abc")
        until = utc_now() + timedelta(days=1)
        await studio.write(lambda tx: store.advance(tx, upload, was=0, now=3, expires_at=until))
        early = await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": upload}})
        await studio.studio.uploads.tidy()
        later = await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": upload}})
    assert (code_of(early), later.status_code) == ((409, "upload_incomplete"), 201)


async def test_two_senders_at_once_one_is_told_that_it_is_taken(studio: Rig) -> None:
    async with studio.http() as api:
        at = await begun(api)
        part = studio.studio.storage.incoming(studio.actor.project, at.rpartition("/")[2])
        with locked(part):
            taken = await send(api, at, BODY, 0)
        assert code_of(taken) == (423, "locked")
        assert "retry-after" in taken.headers
        answers = await asyncio.gather(*(send(api, at, BODY, 0) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers)[0] == 204
        assert {answer.status_code for answer in answers} <= {204, 409, 423}
        assert sum(answer.status_code == 204 for answer in answers) == 1
        assert (await api.get(at)).json()["sha256"] == hashlib.sha256(BODY).hexdigest()


async def test_a_full_disk_is_told_and_costs_nothing_that_was_counted(
    studio: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async with studio.http() as api:
        at = await begun(api)
        await send(api, at, BODY[:500], 0)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            failed = await send(api, at, BODY[500:], 500)
            assert code_of(failed) == (507, "storage_full")
        assert await offset(api, at) == 500
        assert (await send(api, at, BODY[500:], 500)).status_code == 204
        free = shutil.disk_usage(studio.studio.storage.root).free
        answer = await api.post(PATH, headers={**TUS, "upload-length": str(min(free, 100 * 2**30))})
    if free <= 100 * 2**30:
        assert code_of(answer) == (507, "storage_full")


async def test_a_project_s_quota_counts_until_a_dataset_was_made(tmp_path: Path) -> None:
    studio = await studio_rig(tmp_path, upload_quota_bytes=1500)
    async with studio.http() as api:
        at = await begun(api)
        over = await api.post(PATH, headers={**TUS, "upload-length": "501"})
        assert code_of(over) == (413, "upload_quota_exceeded")
        await send(api, at, BODY, 0)
        await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": at.rpartition("/")[2]}})
        assert (await api.post(PATH, headers={**TUS, "upload-length": "1001"})).status_code == 201
    studio.studio.database.close()


async def test_what_is_terminated_or_expired_is_gone_with_its_bytes(studio: Rig, tmp_path: Path) -> None:
    async with studio.http() as api:
        places = [await begun(api) for _ in range(3)]
        await send(api, places[0], BODY[:10], 0)
        await send(api, places[1], BODY[:10], 0)
        await send(api, places[2], BODY, 0)
        assert (await api.delete(places[0], headers=TUS)).status_code == 204
        assert (await api.head(places[0], headers=TUS)).status_code == 404
        assert len(lying(tmp_path)) == 2
        until = utc_now() - timedelta(seconds=1)
        for place, now in ((places[1], 10), (places[2], len(BODY))):
            upload = place.rpartition("/")[2]
            await studio.write(lambda tx, u=upload, n=now: store.advance(tx, u, was=n, now=n, expires_at=until))
        await studio.studio.uploads.tidy()
        assert (await api.get(PATH)).json()["data"] == []
    await studio.pass_time(hours=1)
    assert lying(tmp_path) == []


async def test_bytes_that_a_dataset_and_an_upload_share_stay_as_long_as_one_of_them(
    studio: Rig, tmp_path: Path
) -> None:
    async with studio.http() as api:
        made = (await api.post("/v1/files", files={"file": ("a", BODY)}, data={"purpose": "user_data"})).json()
        at = await begun(api)
        await send(api, at, BODY, 0)
        assert len(lying(tmp_path)) == 1
        await api.delete(f"/v1/files/{made['id']}")
        await studio.pass_time()
        assert len(lying(tmp_path)) == 1
        await api.delete(at, headers=TUS)
    await studio.pass_time(hours=1)
    assert len(lying(tmp_path)) == 1, "a file that OpenAI's client deleted can be restored for a day"
    await studio.pass_time(hours=24)
    assert lying(tmp_path) == []


async def test_another_project_reaches_nothing_of_it(studio: Rig, owner: Owner) -> None:
    async with studio.http() as api:
        other = (await api.post("/api/v1/projects", json={"name": "other"})).json()["key"]["secret"]
        at = await begun(api, 3)
        await send(api, at, b"abc", 0)
    async with studio.http(other) as api:
        answers = [
            await api.head(at, headers=TUS), await api.get(at), await send(api, at, b"abc", 0),
            await api.delete(at, headers=TUS),
            await api.post("/api/v1/datasets", json={"source": {"kind": "upload", "upload": at.rpartition("/")[2]}}),
        ]  # fmt: skip
    assert {answer.status_code for answer in answers} == {404}


async def test_a_large_first_piece_under_a_key_is_refused_before_it_fills_the_memory(studio: Rig) -> None:
    headers = {**BYTES, "upload-length": "3000000", "idempotency-key": "k"}
    async with studio.http() as api:
        answer = await api.post(PATH, content=b"x" * 3_000_000, headers=headers)
    assert code_of(answer) == (413, "too_large")
