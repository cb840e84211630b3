"""A model's birth: card, bill of materials and signature, checked by the official programs; a changed byte is found."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import model_signing
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from studio_rig import Rig
from test_model_versions import published, put

from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.models import ModelView
from finery_studio.models.signature import Keys, Signer
from finery_studio.models.tree import tree_of


async def born(studio: Rig, name: str = "mine") -> ModelView:
    model = await published(studio, name)
    put(studio, f"{model.weights}/model.safetensors", "weights")
    put(studio, f"{model.weights}/config.json", "{}")
    assert await studio.studio.registrar.certify_all() == 2
    return await studio.model(name)


def laid_out(studio: Rig, model: ModelView, folder: Path) -> tuple[Path, Path, Path]:
    """Files, signature and public key as somebody outside has them."""
    (folder / "model").mkdir(parents=True)
    for name, path in tree_of(model, studio.studio.storage).items():
        shutil.copy(path, folder / "model" / name)
    assert model.certificate is not None
    shutil.copy(studio.studio.storage.path(f"{model.certificate.url}/model.sig"), folder / "model.sig")
    (folder / "key.pem").write_text(studio.studio.registrar.signer.public_pem)
    return folder / "model", folder / "model.sig", folder / "key.pem"


def verify(model: Path, signature: Path, key: Path) -> None:
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, signature)


async def test_the_official_program_verifies_the_signature_and_finds_every_change(studio: Rig, tmp_path: Path) -> None:
    model = await born(studio)
    model_folder, signature, key = laid_out(studio, model, tmp_path / "out")

    verify(model_folder, signature, key)

    assert {path.name for path in model_folder.iterdir()} == {
        "README.md", "bom.cdx.json", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    (model_folder / "adapter_model.safetensors").write_text("other")
    with pytest.raises(ValueError, match="adapter_model"):
        verify(model_folder, signature, key)


async def test_card_bill_and_signature_are_handed_out_as_they_are_kept(studio: Rig) -> None:
    async with studio.http() as api:
        model = await published(studio, "mine")
        refused = await api.get("/api/v1/models/mine/certificate/README.md")
        put(studio, f"{model.weights}/model.safetensors", "weights")
        await studio.studio.registrar.certify_all()
        model = await studio.model("mine")
        assert model.certificate is not None
        for name in ("README.md", "bom.cdx.json", "model.sig"):
            answer = await api.get(f"/api/v1/models/mine/certificate/{name}")
            assert answer.content == studio.studio.storage.path(f"{model.certificate.url}/{name}").read_bytes()
        assert (await api.get("/api/v1/models/mine/certificate/config.json")).status_code == 400
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_ready")


def test_a_key_is_the_installations_own_and_always_the_same() -> None:
    one, other = Signer(b"a" * 32), Signer(b"b" * 32)
    files = {"b": "ab" * 32, "a": "cd" * 32}

    assert Signer(b"a" * 32).sign("m", files) == one.sign("m", files)
    assert one.key != other.key
    assert Keys.of(one).read(one.sign("m", files)).files == files
    with pytest.raises(InvalidRequest) as unknown:
        Keys.of(one).read(other.sign("m", files))
    assert unknown.value.error_code == "signer_unknown"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"verificationMaterial": {"publicKey": {"hint": "x"}}}', "[" * 100_000]
)
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Keys.of(Signer(b"a" * 32)).read(text)
    assert refused.value.error_code == "signature_invalid"


def test_a_signature_of_other_files_is_refused() -> None:
    signer = Signer(b"a" * 32)
    mine, other = (json.loads(signer.sign("m", {"a": digit * 64})) for digit in "12")
    mine["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    with pytest.raises(InvalidRequest) as refused:
        Keys.of(signer).read(json.dumps(mine))
    assert refused.value.error_code == "signature_invalid"


async def test_the_bill_of_materials_fulfils_the_official_schema_and_names_base_data_and_files(studio: Rig) -> None:
    model = await born(studio)
    assert model.certificate is not None
    text = studio.studio.storage.path(f"{model.certificate.url}/bom.cdx.json").read_text()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None

    told = json.loads(text)
    component = told["metadata"]["component"]
    assert (component["type"], component["name"], component["version"]) == ("machine-learning-model", "mine", "1")
    assert component["modelCard"]["modelParameters"]["datasets"] == [{"ref": model.lineage["dataset"]}]
    assert {part["name"] for part in component["components"]} == {"adapter_config.json", "adapter_model.safetensors"}
    assert {part["bom-ref"]: part["type"] for part in told["components"]} == {
        model.base: "machine-learning-model", model.lineage["dataset"]: "data",
    }  # fmt: skip
    assert told["components"][1]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]


async def test_the_card_has_a_head_that_hubs_read_and_nobodys_text_breaks_out_of_it(studio: Rig) -> None:
    model = await born(studio)
    assert model.certificate is not None
    _, head, body = (
        studio.studio.storage.path(f"{model.certificate.url}/README.md").read_text().split("---\n", maxsplit=2)
    )
    said = yaml.safe_load(head)
    assert (said["base_model"], said["base_model_relation"]) == ("smollm2-135m-instruct", "adapter")
    assert said["license"] == "apache-2.0"
    assert said["datasets"] == ["train.jsonl"]
    assert said["metrics"] == ["loss"]
    assert "# mine, version 1" in body
    assert "c" * 64 in body


@pytest.mark.parametrize("part", ["adapter_model.safetensors", "model.safetensors"])
async def test_a_changed_byte_of_adapter_or_base_is_not_served_and_named(studio: Rig, part: str) -> None:
    model = await born(studio)
    check = studio.studio.registrar.check
    assert await check(model) == []
    folder = model.adapter if part.startswith("adapter") else model.weights
    path = studio.studio.storage.path(f"{folder}/{part}")
    path.write_text(path.read_text()[:-1] + "X")

    with pytest.raises(Conflict) as refused:
        await check(model)

    assert (refused.value.error_code, refused.value.param) == ("model_changed", part)
    async with studio.http() as api:
        answer = await api.post("/api/v1/deployments", json={"name": "chat", "model": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_changed")
    studio.studio.registrar.on_change = "warn"
    assert part in (await check(model))[0]
    studio.studio.registrar.on_change = "off"
    assert await check(model) == []


async def test_a_file_too_many_or_too_few_or_a_lost_signature_is_found(studio: Rig) -> None:
    model = await born(studio)
    assert model.certificate is not None
    extra = put(studio, f"{model.adapter}/more.txt")
    with pytest.raises(Conflict, match=r"more\.txt"):
        await studio.studio.registrar.check(model)
    extra.unlink()
    studio.studio.storage.path(f"{model.adapter}/adapter_config.json").unlink()
    with pytest.raises(Conflict, match=r"adapter_config\.json"):
        await studio.studio.registrar.check(model)
    studio.studio.storage.path(f"{model.certificate.url}/model.sig").unlink()
    with pytest.raises(Conflict, match=r"model\.sig"):
        await studio.studio.registrar.check(model)
    assert await studio.studio.registrar.certify_all() == 0, "what was signed is not signed again"


async def test_a_model_that_is_served_before_its_certificate_gets_one_first(studio: Rig) -> None:
    model = await published(studio, "mine")
    put(studio, f"{model.weights}/config.json", "{}")
    assert await studio.studio.registrar.check(model) == []
    assert (await studio.model("mine")).certificate is not None
    assert (await studio.said(model.id))[-1] == "model.signed"


async def test_what_cannot_be_signed_is_not_served_unsigned(studio: Rig, tmp_path: Path) -> None:
    model = await published(studio, "mine")
    put(studio, f"{model.weights}/config.json", "{}")
    (studio.studio.storage.path(model.adapter or "") / "more.bin").symlink_to(tmp_path)
    await studio.studio.registrar.certify_all()
    with pytest.raises(Conflict) as refused:
        await studio.studio.registrar.check(model)
    assert (refused.value.error_code, refused.value.param) == ("model_changed", "more.bin")
    studio.studio.registrar.on_change = "warn"
    assert "more.bin" in (await studio.studio.registrar.check(model))[0]


@pytest.mark.parametrize("changed", ["README.md", "original-README.md"])
async def test_a_file_that_is_named_as_the_certificate_s_own_hides_no_other(studio: Rig, changed: str) -> None:
    model = await published(studio, "mine")
    for name in ("README.md", "original-README.md", "config.json"):
        put(studio, f"{model.weights}/{name}", name)
    assert await studio.studio.registrar.check(model) == []
    put(studio, f"{model.weights}/{changed}", "changed")
    with pytest.raises(Conflict, match="is not the one that was signed"):
        await studio.studio.registrar.check(model)


async def test_a_model_is_signed_once_however_many_ask_and_whatever_they_knew(studio: Rig) -> None:
    model = await published(studio, "mine")
    weights = put(studio, f"{model.weights}/config.json", "{}")
    registrar = studio.studio.registrar
    made = await asyncio.gather(registrar.certify_all(), *(registrar.check(model) for _ in range(5)))
    assert made == [2, [], [], [], [], []]
    weights.write_text("changed")
    with pytest.raises(Conflict, match=r"config\.json"):
        await registrar.check(model)  # asked with the view of before it was signed
    assert (await studio.said(model.id)).count("model.signed") == 1


async def test_a_certificate_that_the_disk_did_not_take_is_made_later(studio: Rig) -> None:
    model = await published(studio, "mine")
    put(studio, f"{model.weights}/config.json", "{}")
    in_the_way = put(studio, f"store://{model.project}/models/{model.id}")
    assert await studio.studio.registrar.certify_all() == 1, "its base alone"
    in_the_way.unlink()
    assert await studio.studio.registrar.certify_all() == 1
    assert (await studio.model("mine")).certificate is not None
