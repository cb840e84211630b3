"""Operators' gallery files: what they add and replace, and faults that stop the start and are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from studio_rig import GALLERY_MODEL

import finery_studio
from finery_contracts.errors import InvalidRequest
from finery_studio.models.gallery import load_gallery
from finery_studio.settings import StudioSettings

FAMILY = {"uses": ["dialogue"], "languages": ["de"], "licence": "MIT"}
BOMB = "a: &a [x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 30)}]\n" for before, after in zip("abcde", "bcdef", strict=True)
)
"""30 to the power of 5 words, in a few lines."""
OLD_CONFIG = {"model_type": "llama", "hidden_size": 64}


def model(**said: Any) -> dict[str, Any]:
    return {"family": "Mine", "parameters": 10, **said}


def a_file(place: Path, models: dict[str, Any], families: dict[str, Any] | None = None) -> Path:
    place.write_text(yaml.safe_dump({"families": {"Mine": FAMILY} if families is None else families, "models": models}))
    return place


def faults_of(*given: Path) -> list[dict[str, Any]]:
    with pytest.raises(InvalidRequest) as refused:
        load_gallery(given)
    assert refused.value.error_code == "gallery_invalid"
    for fault in refused.value.details:
        assert fault["file"] in refused.value.message
        assert fault["reason"]
        assert fault["remedy"]
    return refused.value.details


def test_an_operators_file_adds_a_family_and_a_model(tmp_path: Path) -> None:
    gallery = load_gallery(a_file(tmp_path / "mine.yaml", {"mine-7b": model(source="file:///weights/mine")}))

    mine = gallery.entries["mine-7b"]
    assert set(load_gallery().entries) | {"mine-7b"} == set(gallery.entries)
    assert (mine.family, mine.uses, mine.languages, mine.licence.spdx) == ("Mine", ["dialogue"], ["de"], "MIT")
    assert (mine.title, mine.max_length, mine.supports.deploy) == ("mine-7b", 4096, ["none"])


def test_the_example_of_the_readme_is_a_gallery_file(tmp_path: Path) -> None:
    readme = Path(finery_studio.__file__).parents[1] / "README.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)

    entries = load_gallery(tmp_path / "mine.yaml").entries

    assert (entries["house-7b"].licence.name, entries["house-7b"].supports.deploy) == ("House rules", ["none", "awq"])
    assert (entries["house-7b-awq"].quantisation, entries["house-7b-awq"].supports.deploy) == ("awq", ["awq"])


def test_a_model_says_for_itself_what_its_family_says_otherwise(tmp_path: Path) -> None:
    own = model(licence={"name": "House rules"}, languages=["fr"], uses=[], max_length=32, title="T")
    entry = load_gallery(a_file(tmp_path / "mine.yaml", {"mine": own})).entries["mine"]

    assert (entry.licence.name, entry.licence.spdx, entry.licence.acceptance) == ("House rules", None, True)
    assert (entry.languages, entry.uses, entry.max_length, entry.title) == (["fr"], [], 32, "T")


def test_a_folder_and_a_list_of_files_are_read_together(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    a_file(folder / "a.yaml", {"a": model()})
    a_file(folder / "b.yml", {"b": model()}, families={})
    (folder / "notes.txt").write_text("not a gallery file: [")
    c = a_file(tmp_path / "c.yaml", {"c": model()}, families={})

    assert {"a", "b", "c", GALLERY_MODEL} <= set(load_gallery([folder, c]).entries)


@pytest.mark.parametrize("said", ["{0}", '["{0}", "{1}"]'])
def test_the_setting_takes_a_path_or_a_list_of_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    paths = [a_file(tmp_path / "a.yaml", {"a": model()}), a_file(tmp_path / "b.yaml", {"b": model()}, families={})]
    monkeypatch.setenv("FINERY_GALLERY_FILE", said.format(*paths))

    entries = load_gallery(StudioSettings().gallery_file).entries

    assert ("a" in entries, "b" in entries) == (True, "{1}" in said)


def test_a_shipped_entry_is_replaced_only_where_the_file_says_so(tmp_path: Path) -> None:
    silent = a_file(tmp_path / "silent.yaml", {GALLERY_MODEL: model()})
    aloud = a_file(tmp_path / "aloud.yaml", {GALLERY_MODEL: model(replaces=True, parameters=77)})

    (fault,) = faults_of(silent)
    assert (fault["file"], fault["entry"]) == (str(silent), f"models.{GALLERY_MODEL}")
    assert "replaces: true" in fault["remedy"]
    assert load_gallery(aloud).entries[GALLERY_MODEL].parameters == 77


def test_a_shipped_family_is_replaced_only_where_the_file_says_so(tmp_path: Path) -> None:
    silent = a_file(tmp_path / "silent.yaml", {}, families={"Yi": FAMILY})
    aloud = a_file(tmp_path / "aloud.yaml", {}, families={"Yi": {**FAMILY, "replaces": True}})

    assert [fault["entry"] for fault in faults_of(silent)] == ["families.Yi"]
    assert load_gallery(aloud).entries["Yi-6B"].languages == ["de"]


def test_two_operators_files_cannot_both_have_an_id_even_if_one_would_replace(tmp_path: Path) -> None:
    first = a_file(tmp_path / "1.yaml", {"mine": model()})
    second = a_file(tmp_path / "2.yaml", {"mine": model(replaces=True)}, families={})

    (fault,) = faults_of(first, second)
    assert (fault["file"], fault["entry"], fault["remedy"]) == (str(second), "models.mine", "keep one of the two")
    assert str(first) in fault["reason"]


def test_an_id_that_stands_twice_in_one_file_is_found_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    entry = "{family: Yi, parameters: 1}"
    path.write_text(f"models:\n  twin: {entry}\n  other: {entry}\n  twin: {entry}\n")

    (fault,) = faults_of(path)
    assert (fault["entry"], fault["key"]) == ("line 4", "twin")


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    a = a_file(tmp_path / "a.yaml", {"x": model(parameters=-1), "y": model(colour="red")})
    b = a_file(tmp_path / "b.yaml", {"z": model(family="Nowhere")}, families={})

    found = {(Path(fault["file"]).name, fault["entry"], fault["key"]) for fault in faults_of(a, b)}

    assert found == {
        ("a.yaml", "models.x", "parameters"), ("a.yaml", "models.y", "colour"), ("b.yaml", "models.z", "family"),
    }  # fmt: skip


AWQ_ONLY = {"deploy": ["none", "awq"], "compress": {"smoothquant-w8a8": [1, 2]}}


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"quantisation": "awq", "supports": {"tune": ["lora"]}}, "supports.tune"),
        ({"quantisation": "awq", "supports": {"compress": ["fp8"]}}, "supports.compress"),
        ({"quantisation": "smoothquant"}, "quantisation"),
        ({"overrides": {"bos": "<s>"}}, "overrides.bos"),
        ({"overrides": {"eos_token": 2}}, "overrides.eos_token"),
        ({"overrides": {"model_max_length": "long"}}, "overrides.model_max_length"),
        ({"source": "/srv/m", "gguf_file": "../m.gguf"}, "gguf_file"),
        ({"supports": {"tune": ["lora", "lora"]}}, "supports.tune"),
        ({"published_config": {"model_type": "llama", "torch_dtype": "bfloat16"}}, "published_config"),
        ({"quantisation": "awq", "supports": {"deploy": ["awq", "none"]}}, "supports.deploy"),
        ({"quantisation": "int3"}, "quantisation"),
        ({"supports": AWQ_ONLY}, "supports.compress"),
        ({"supports": {"compress": ["awq-w4a16"]}}, "supports.compress"),
        ({"supports": {"compress": {"squeeze": None}, "deploy": ["none"]}}, "supports.compress.squeeze.[key]"),
        ({"supports": {"compress": {"gguf": [3, 2]}}}, "supports.compress.gguf"),
        ({"supports": {"compress": [{"gguf": 1}]}}, "supports.compress"),
        ({"supports": {"tune": ["qlora"]}}, "supports.tune.0"),
        ({"supports": {"serve": True}}, "supports.serve"),
        ({"throughput": {"lora": [1, 2]}}, "supports.tune"),
        ({"supports": {"tune": ["lora"]}, "throughput": {"lora": [-5, 2]}}, "throughput.lora.0"),
        ({"qps_awq": 3}, "qps_awq"),
        ({"qps_smoothquant": 3}, "qps_smoothquant"),
        ({"qps": 0}, "qps"),
        ({"max_length": 8}, "max_length"),
        ({"parameters": 0}, "parameters"),
        ({"licence": "MIT or so"}, "licence"),
        ({"licence": {"title": "x"}}, "licence.NamedLicence.title"),
        ({"source": "weights/here"}, "source"),
        ({"gguf_file": "a.gguf"}, "gguf_file"),
        ({"published_config": {"hidden_size": 64}}, "published_config.model_type"),
        ({"published_config": {**OLD_CONFIG, "hidden_size": -64}}, "published_config.hidden_size"),
        (
            {"published_config": {**OLD_CONFIG, "text_config": {"num_layers": 0}}},
            "published_config.text_config.num_layers",
        ),
        ({"published_config": OLD_CONFIG, "architecture": "qwen2"}, "architecture"),
        ({"replaces": True}, "replaces"),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused_at_the_key(tmp_path: Path, said: dict[str, Any], key: str) -> None:
    faults = faults_of(a_file(tmp_path / "mine.yaml", {"mine": model(**said)}))

    assert {fault["entry"] for fault in faults} == {"models.mine"}
    assert key in [fault["key"] for fault in faults]


def test_the_gallery_says_of_which_models_everybody_brings_the_weights() -> None:
    entries = load_gallery().entries
    assert entries["Baichuan2-13B"].custom_only
    assert not entries["Llama2-7B"].custom_only


def test_a_custom_only_family_recommends_no_weights(tmp_path: Path) -> None:
    families = {"Mine": {**FAMILY, "custom_only": True}}
    bad = a_file(tmp_path / "bad.yaml", {"mine": model(source="/weights")}, families)

    (fault,) = faults_of(bad)
    assert (fault["key"], fault["remedy"]) == ("source", "leave source out")


def test_a_model_without_any_licence_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(a_file(tmp_path / "bad.yaml", {"mine": model()}, families={"Mine": {}}))
    assert fault["key"] == "licence"


def test_an_unknown_key_is_answered_with_the_keys_there_are(tmp_path: Path) -> None:
    (fault,) = faults_of(a_file(tmp_path / "bad.yaml", {"mine": model(parametres=1)}))
    assert "parameters" in fault["remedy"]


@pytest.mark.parametrize(
    "text",
    [
        "models: [", "[]", "", "models: {m: {family: F}}", "models: {m: !!python/object/apply:os.system [id]}",
        "models: {m: 2026-13-45}", "defaults: {max_length: 1}", "models: {'a b': {family: Yi, parameters: 1}}",
        "models: {1: {family: Yi, parameters: 1}}", "models: &a {m: *a}", "families: {F: 3}", "\x00",
        BOMB, "models: " + "[" * 5000,
    ],
)  # fmt: skip
def test_a_faulty_gallery_file_stops_the_start_and_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    assert {fault["file"] for fault in faults_of(path)} == {str(path)}


def test_a_file_that_cannot_be_read_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"models: \xff\xfe")
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "absent.yaml", tmp_path / "latin.yaml", tmp_path / "empty"]

    assert {fault["file"] for fault in faults_of(*given)} == {str(path) for path in given}
