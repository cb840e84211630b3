"""Bundles: what leaves one house arrives in another as it was, or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import model_signing
import pytest_asyncio
from studio_rig import Rig, studio_rig
from test_model_birth import born
from test_model_versions import merges, put, tuned
from test_withdrawal import withdraw

from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_contracts.models import ModelState
from finery_studio.models.bundle_file import Manifest, read_head, unpack
from finery_studio.models.signature import Keys, Signer

__all__ = ["merges"]
IMPORT = "/api/v1/models/import-bundle"


@pytest_asyncio.fixture
async def other(tmp_path: Path, studio: Rig) -> AsyncIterator[Rig]:
    """Another house, whose operator allows the first one's key."""
    key = tmp_path / "first.pem"
    key.write_text(studio.studio.registrar.signer.public_pem)
    rig = await studio_rig(tmp_path / "other", installation_secret="cd" * 32, trusted_keys=[key])
    yield rig
    rig.studio.database.close()


async def bundle_of(studio: Rig, name: str, base: str = "include") -> bytes:
    async with studio.http() as api:
        answer = await api.get(f"/api/v1/models/{name}/export", params={"base": base})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer.content


async def sent(rig: Rig, body: bytes, **said: str) -> tuple[int, dict]:
    async with rig.http() as api:
        answer = await api.post(IMPORT, files={"file": ("m.tar", body)}, data=said)
    return answer.status_code, answer.json()


async def test_an_adapter_with_its_base_arrives_byte_for_byte_and_is_validated(studio: Rig, other: Rig) -> None:
    model = await born(studio)

    status, made = await sent(other, await bundle_of(studio, "mine"))

    assert (status, made["name"], made["state"]) == (201, "mine", "ready")
    assert [claim.spec.kind for claim in await other.work()] == [TaskKind.VALIDATE]
    here = await other.model("mine")
    assert model.certificate is not None
    assert here.certificate is not None
    assert (here.certificate.digest, here.certificate.key) == (model.certificate.digest, model.certificate.key)
    theirs, ours = (rig.studio.storage.path(view.adapter or "") for rig, view in ((studio, model), (other, here)))
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }
    assert (await other.model(here.base or "")).state is ModelState.READY
    assert await other.studio.registrar.check(here) == [], "the origin's signature counts here, too"
    assert list((other.studio.storage.root / ".incoming").iterdir()) == []
    await other.pass_time(hours=2)
    assert ours.is_dir(), "what was registered is not swept away"


async def test_a_bundle_is_the_same_bytes_each_time_and_the_official_program_verifies_it(
    studio: Rig, tmp_path: Path
) -> None:
    await born(studio)
    body = await bundle_of(studio, "mine")
    assert await bundle_of(studio, "mine") == body
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    (tmp_path / "key.pem").write_text(studio.studio.registrar.signer.public_pem)
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pem")
    for part in ("model", "base"):
        verifier.verify(tmp_path / "out" / part, tmp_path / "out" / f"{part}.sig")


async def test_an_adapter_alone_needs_the_very_base(studio: Rig, other: Rig) -> None:
    await born(studio)
    alone = await bundle_of(studio, "mine", base="reference")
    status, refused = await sent(other, alone)
    assert (status, refused["error"]["code"]) == (400, "base_missing")

    base = (await studio.model("mine")).base or ""
    assert (await sent(other, await bundle_of(studio, base)))[0] == 201
    await other.work()

    status, made = await sent(other, alone, name="again")
    assert (status, made["name"]) == (201, "again")
    assert (await other.model("again")).base == (await other.model("smollm2-135m-instruct")).id


async def test_a_whole_model_becomes_usable_when_it_is_valid_and_a_new_version_then_has_the_name(
    studio: Rig, other: Rig
) -> None:
    model = await born(studio)
    base = await bundle_of(studio, model.base or "")
    assert (await sent(other, base, name="whole"))[1]["state"] == "validating"
    await other.work()
    assert (await sent(other, base, name="whole"))[1]["error"]["code"] == "name_taken"
    _, second = await sent(other, base, name="whole", new_version="true")
    assert (second["number"], second["current"]) == (2, False)
    await other.work()
    assert (await other.model("whole")).number == 2


async def test_what_was_withdrawn_meanwhile_or_elsewhere_flags_what_comes_in_and_what_is_tuned_from_it(
    studio: Rig, other: Rig
) -> None:
    model = await born(studio)
    before = await bundle_of(studio, "mine")
    await withdraw(studio, model.lineage["dataset"])
    _, back = await sent(studio, before, name="back")
    async with studio.http() as api:
        await api.post("/api/v1/models/mine/publish", json={"form": "merged", "name": "whole"})
    await studio.work()
    put(studio, f"{(await studio.model('whole')).weights}/model.safetensors")
    _, there = await sent(other, await bundle_of(studio, "whole"))
    await other.work()
    tuned_there = await tuned(other, model="whole")
    for rig, ref in ((studio, back["id"]), (other, there["id"]), (other, tuned_there.id)):
        flagged = await rig.model(ref)
        assert [told.dataset for told in flagged.withdrawn_inputs] == [model.lineage["dataset"]]


async def test_an_unknown_signer_is_refused_and_nothing_is_left(studio: Rig, tmp_path: Path) -> None:
    await born(studio)
    stranger = await studio_rig(tmp_path / "stranger", installation_secret="ef" * 32)
    status, refused = await sent(stranger, await bundle_of(studio, "mine"))
    assert (status, refused["error"]["code"]) == (400, "signer_unknown")
    await nothing_is_there(stranger)
    stranger.studio.database.close()


async def nothing_is_there(rig: Rig) -> None:
    async with rig.http() as api:
        assert (await api.get("/api/v1/models")).json()["data"] == []
    await rig.pass_time()
    assert [path for path in rig.studio.storage.root.rglob("*") if path.is_file()] == []


def resigned(body: bytes, change: Callable[[dict], None], signer: Signer) -> bytes:
    """The bundle with another manifest that is signed as it should be."""
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    manifest = json.loads(members[0][1])
    change(manifest)
    text = json.dumps(manifest).encode()
    signature = signer.sign("m", {"manifest.json": hashlib.sha256(text).hexdigest()}).encode()
    return packed([("manifest.json", text), ("manifest.sig", signature), *members[2:]])


def packed(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in members:
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return out.getvalue()


async def test_every_change_of_a_bundle_is_found_and_leaves_nothing(studio: Rig, other: Rig) -> None:
    await born(studio)
    body = await bundle_of(studio, "mine")
    signer = studio.studio.registrar.signer
    place = body.index(b"left/out/adapter")  # the text of a file

    def listed(name: str) -> Callable[[dict], None]:
        return lambda manifest: manifest["files"].update({name: {"size_bytes": 1, "sha256": "a" * 64}})

    def without_card(manifest: dict) -> None:
        manifest["files"].pop("model/README.md")

    spoiled = {
        "bundle_changed": [
            body[:place] + b"X" + body[place + 1 :], resigned(body, without_card, signer),
            resigned(body, lambda m: m["model"].update(content="a" * 64), signer),
        ],
        "bundle_incomplete": [body[: len(body) // 2 // 512 * 512], resigned(body, listed("model/more"), signer)],
        "bundle_invalid": [
            b"", b"\0" * 1024, b"no tar" * 200, packed([("x", b"")]), resigned(body, listed("../../x"), signer),
            resigned(body, listed("/etc/x"), signer), resigned(body, listed("model/../../x"), signer),
            resigned(body, listed("other/x"), signer), resigned(body, lambda m: m.update(format="x"), signer),
        ],
        "signature_invalid": [packed([("manifest.json", b"{}"), ("manifest.sig", b"{}")])],
    }  # fmt: skip
    for code, bodies in spoiled.items():
        for number, changed in enumerate(bodies):
            status, refused = await sent(other, changed)
            assert (status, refused["error"]["code"]) == (400, code), (number, refused)
    await nothing_is_there(other)


async def test_links_devices_and_other_members_are_refused(studio: Rig, other: Rig) -> None:
    await born(studio)
    body = await bundle_of(studio, "mine")
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        head = [(info.name, tar.extractfile(info).read()) for info in tar][:2]  # type: ignore[union-attr]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME, b"x"):
        member = tarfile.TarInfo("model/adapter_config.json")
        member.type, member.linkname = kind, "/etc/passwd"
        hostile = packed(head).rstrip(b"\0")
        hostile += b"\0" * (-len(hostile) % 512) + member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024
        status, refused = await sent(other, hostile)
        assert (status, refused["error"]["code"]) == (400, "bundle_invalid")
    await nothing_is_there(other)


async def test_a_bundle_over_the_limit_is_refused_before_it_is_unpacked(studio: Rig, tmp_path: Path) -> None:
    await born(studio)
    small = await studio_rig(tmp_path / "small", max_bundle_bytes=10)  # the same secret, so the key is its own
    status, refused = await sent(small, await bundle_of(studio, "mine"))
    assert (status, refused["error"]["code"]) == (413, "bundle_too_large")
    await nothing_is_there(small)
    small.studio.database.close()


async def test_what_was_changed_since_its_birth_is_not_exported(studio: Rig) -> None:
    model = await born(studio)
    put(studio, f"{model.adapter}/adapter_config.json", "changed")
    async with studio.http() as api:
        answer = await api.get("/api/v1/models/mine/export")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_changed")


async def test_the_key_that_others_must_allow_is_told(studio: Rig) -> None:
    await tuned(studio)
    async with studio.http() as api:
        told = (await api.get("/api/v1/model-key")).json()
    signer = studio.studio.registrar.signer
    assert told == {"key": signer.key, "public_key": signer.public_pem}
    assert "PRIVATE" not in told["public_key"]
    assert list(Keys.of(signer).known) == [told["key"]]
    assert Manifest.model_fields["format"].default == "finery.model-bundle/1"


def accepted(bundle: bytes, keys: Keys, folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = io.BytesIO(bundle)
    try:
        unpack(file, read_head(file, keys), folder, keys, max_bytes=2**30)
    except InvalidRequest:
        return False
    return True


async def test_a_single_bit_anywhere_in_a_bundle_is_found(studio: Rig, tmp_path: Path) -> None:
    await born(studio)
    body = await bundle_of(studio, "mine")
    keys, chance = studio.studio.registrar.keys, Random(7)
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        envelope = tar.getmember("manifest.sig")  # around what is signed it has signs that mean nothing
    unsigned = range(envelope.offset_data, envelope.offset_data + envelope.size)
    places = [chance.randrange(len(body)) for _ in range(300)]
    spoiled = {
        at: body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]
        for at in [0, *places, len(body) - 1]
        if at not in unsigned
    }  # fmt: skip
    assert len(spoiled) > 200
    assert [at for at, changed in spoiled.items() if accepted(changed, keys, tmp_path / "out")] == []
    for changed in (body[:-1], body[:-512], body[:-1024], body + b"x", body + body):
        assert not accepted(changed, keys, tmp_path / "out")
    assert accepted(body, keys, tmp_path / "out")
