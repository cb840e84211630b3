"""Folders out of an object store are judged like folders here: the same faults, all at once, by the same codes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder_builders import WEIGHTS, change_json, run_engine, shard
from hostile_values import gguf_bytes
from test_model_import import split, write_gguf

from finery_contracts.jobs import ImportOutput, ImportSpec, JobResult
from finery_weight_validator.engine import convert
from tests.e2e.tiny_folders import GLM_TOKENIZER, tiny_glm
from tests.plain_store import objects_of, plain_store


def import_from_store(folder: Path, work: Path, **said: Any) -> tuple[int, JobResult, Path]:
    with plain_store(objects_of(folder, "m")) as store:
        status, result = run_engine(convert.main, work, ImportSpec(origin=store.origin("s3://lake/m"), **said))
    return status, result, work / "out" / "model"


def import_from_here(folder: Path, work: Path) -> tuple[int, JobResult, Path]:
    status, result = run_engine(convert.main, work, ImportSpec(source=str(folder)))
    return status, result, work / "out" / "model"


def faults(result: JobResult) -> set[tuple[str, str]]:
    assert result.error is not None
    return {(one["code"], one["where"]) for one in result.error.details if one["severity"] == "error"}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a pickle in disguise": lambda m: (m / "vocab.txt").write_bytes(b"\x80\x04cposix\nsystem\n."),
    "an archive in disguise": lambda m: (m / "a.json").write_bytes(b"PK\x03\x04" + b"x" * 40),
    "code in disguise": lambda m: (m / "notes.md").write_bytes(b"#!/bin/sh\nrm -rf /"),
    "a pointer": lambda m: (m / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
    "code asked for": lambda m: change_json(m / "config.json", auto_map={"a": "b"}),
    "weights cut off": lambda m: cut(m / WEIGHTS, 1000),
    "a config that is no JSON, and more": lambda m: (
        (m / "config.json").write_text("x"), (m / "generation_config.json").write_text("x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_fetched_folder_has_the_faults_that_it_would_have_here(
    model: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(model)

    here, there = import_from_here(model, tmp_path / "here"), import_from_store(model, tmp_path / "there")

    assert (there[0], there[2].exists()) == (here[0], here[2].exists()) == (2, False)
    assert here[1].error is not None
    assert there[1].error is not None
    assert there[1].error.code == here[1].error.code
    assert faults(there[1]) == faults(here[1]) != set()


def test_sharded_weights_come_whole(model: Path, tmp_path: Path) -> None:
    shard(model)

    (_, here, made), (status, there, fetched) = (
        import_from_here(model, tmp_path / "here"), import_from_store(model, tmp_path / "there"),
    )  # fmt: skip

    assert status == 0, there.error
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }
    assert here.output is not None
    assert there.output is not None
    assert there.output.model_dump(exclude={"fetched"}) == here.output.model_dump(exclude={"fetched"})


def test_of_many_gguf_files_the_one_that_is_named_comes_alone_with_its_parts(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "whole" / "q8.gguf")
    split(tmp_path / "whole" / "q8.gguf", tmp_path / "m", parts=2)
    for name in ("q4.gguf", "pytorch_model.bin", "README.md"):
        (tmp_path / "m" / name).write_bytes(b"\x80")
    with plain_store(objects_of(tmp_path / "m", "m")) as store:
        spec = ImportSpec(origin=store.origin("s3://lake/m"), gguf_file="q8-00001-of-00002.gguf")
        status, result = run_engine(convert.main, tmp_path / "job", spec)
    _, _, here = import_from_here(tmp_path / "whole", tmp_path / "here")

    assert status == 0, result.error
    assert store.fetched == ["m/q8-00001-of-00002.gguf", "m/q8-00002-of-00002.gguf"]
    assert (tmp_path / "job" / "out" / "model" / WEIGHTS).read_bytes() == (here / WEIGHTS).read_bytes()


def test_a_hostile_gguf_file_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "m.gguf").write_bytes(gguf_bytes(tensors=2**63))

    status, result, made = import_from_store(tmp_path / "m", tmp_path / "job")

    assert (status, result.error.code if result.error else "") == (2, "gguf_invalid")
    assert not made.exists()


def test_repairs_are_made_in_what_was_fetched(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.7)
    with plain_store(objects_of(model, "m")) as store:
        spec = ImportSpec(origin=store.origin("s3://lake/m/"), apply_repairs=["generation_do_sample"])
        status, result = run_engine(convert.main, tmp_path / "job", spec)

    assert status == 0, result.error
    made = (tmp_path / "job" / "out" / "model" / "generation_config.json").read_text()
    assert '"do_sample": true' in made


def test_a_folder_that_was_refused_with_a_repair_is_fetched_again_and_repaired(tmp_path: Path) -> None:
    folder, code, repair = tiny_glm(tmp_path / "glm"), "tokenization_chatglm.py", "chatglm_padding_side"
    before, other = hashlib.sha256(GLM_TOKENIZER.encode()).hexdigest(), "0" * 64

    _, refused, nothing = import_from_store(folder, tmp_path / "first", allowed_code=[other])
    assert refused.error is not None
    assert (refused.error.code, nothing.exists()) == ("remote_code", False)
    offered = [one["data"]["repair"] for one in refused.error.details if one["code"] == "repair_available"]
    assert [(one["id"], one["file"], one["sha256_before"]) for one in offered] == [(repair, code, before)]

    agreed = {"allowed_code": [other, before], "apply_repairs": [repair]}
    status, came, model = import_from_store(folder, tmp_path / "second", **agreed)
    assert status == 0, came.error
    assert isinstance(came.output, ImportOutput)
    assert [made.model_dump() for made in came.output.repairs] == offered
    assert hashlib.sha256((model / code).read_bytes()).hexdigest() == offered[0]["sha256_after"] != before
