"""Hostile and broken folders by the hundred: nothing of them runs, none is accepted, each is answered soon; and good
folders of many families raise no alarm."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import hostile_folders as folders
import hostile_values as odd
import pytest
from folder_builders import change_json, codes, shard, validate
from good_folders import FAMILIES, write_family
from transformers import AutoModelForSequenceClassification

from finery_contracts.jobs import ValidateSpec
from finery_weight_validator.engine import chat, limited, structure, tokenizer, values
from finery_weight_validator.engine.checksums import checksum_findings
from finery_weight_validator.engine.findings import errors_of
from finery_weight_validator.engine.gguf_header import gguf_findings
from finery_weight_validator.engine.verdict import judge_headers

QUICK = limited.Limits(cpu_s=1.0, wall_s=10.0, memory_bytes=512 * 2**20)
LONGEST_S = 5.0


def judged(folder: Path) -> list[str]:
    """The codes of errors, by the engine's own stages up to the first that finds some; transformers stays out."""
    verdict = judge_headers(ValidateSpec(model=str(folder)))
    found, errors = verdict.survey, errors_of(verdict.findings)
    if not errors:
        errors = [fault for path in found.gguf for fault in gguf_findings(path)]
        errors += errors_of(checksum_findings(found.folder, {}, found.usable))
        for path in verdict.weights.files:
            tensors = [tensor for tensor in verdict.weights.tensors if tensor.file == path.name]
            errors += errors_of(values.scan(path, tensors, tell=lambda size: None)[1])
    if not errors and "tokenizer.json" in found.usable:
        errors = errors_of(tokenizer.read_file(found.usable["tokenizer.json"], QUICK))
        if not errors:
            vocabulary = json.loads(found.usable["tokenizer.json"].read_text("utf-8"))
            ids = [*vocabulary["model"]["vocab"].values(), *(token["id"] for token in vocabulary["added_tokens"])]
            errors = structure.vocabulary_findings(verdict.weights.tensors, tokens=max(ids) + 1)
    elif not errors:
        errors = [tokenizer.not_loadable("tokenizer.json", "the folder holds none")]
    if not errors:
        text, faults = chat.template_of(found)
        errors = faults or errors_of(chat.template_findings(text, tokens={})[0])
    return [error.code for error in errors]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "it-ran"


EXPECTED = {
    "pickle": {"pickled_weights"},
    "archive": {"archive_refused", "pickled_weights"},
    "header": {"header_invalid", "tensor_overlap", "tensor_missing", "tensor_surplus", "tensor_shape_wrong"},
    "file": {
        "path_escape", "special_file", "remote_code", "config_unreadable", "weights_missing", "weights_hollow",
        "header_invalid", "tokenizer_not_loadable", "generation_config_not_json", "file_not_downloaded",
        "checksum_wrong", "adapter_not_merged",
    },
    "index": {"index_incomplete"},
    "config": {
        "config_unreadable", "structure_differs", "generation_config_not_json", "do_sample_missing", "file_not_json",
        "token_id_outside", "tensor_shape_wrong", "quantization_config_unexpected", "generation_value_wrong",
    },
    "tensor": {"not_finite", "tensor_dtype_wrong"},
    "tokenizer": {"tokenizer_not_loadable", "vocabulary_too_small"},
    "gguf": {"gguf_invalid"},
}  # fmt: skip
"""What each group must be refused for: a refusal for another reason would prove nothing."""


def test_no_hostile_folder_runs_anything_is_accepted_or_takes_long(
    pristine: Path, tmp_path: Path, canary: Path
) -> None:
    groups = {
        "pickle": folders.pickles(canary), "archive": folders.archives(canary), "header": folders.headers(),
        "file": folders.files(canary), "index": folders.indexes(), "config": odd.configs(), "tensor": odd.tensors(),
        "tokenizer": odd.tokenizers(), "gguf": odd.ggufs(),
    }  # fmt: skip
    cases = [(group, name, damage) for group, members in groups.items() for name, damage in members]
    accepted, slow = [], []
    for number, (group, name, damage) in enumerate(cases):
        folder = Path(shutil.copytree(pristine, tmp_path / str(number) / "model"))
        damage(folder)
        began = time.monotonic()
        found = judged(folder)
        if not EXPECTED[group].intersection(found):
            accepted.append((name, found))
        if time.monotonic() - began > LONGEST_S:
            slow.append(name)
        shutil.rmtree(folder.parent)

    assert accepted == []
    assert len(cases) == len({name for _, name, _ in cases}) >= 400
    assert slow == []
    assert not canary.exists()


def test_the_copy_that_the_hostile_ones_are_made_of_is_a_good_folder(model: Path) -> None:
    assert judged(model) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_good_folder_of_a_known_family_raises_no_alarm(tmp_path: Path, family: str) -> None:
    model = tmp_path / "model"
    write_family(family, model)
    sharded = Path(shutil.copytree(model, tmp_path / "sharded"))
    shard(sharded)
    noted = Path(shutil.copytree(model, tmp_path / "noted"))
    (noted / "LICENSE").unlink()
    (noted / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (noted / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (noted / ".git" / "hooks").mkdir(parents=True)
    (noted / ".git" / "hooks" / "pre-push.sample").write_text("#!/bin/sh\n")
    (noted / "NOTICE").write_text("Node.js and isympy are not in it.\n")
    (noted / "merges.txt").write_text("isympy\nsympy\n")
    (noted / "images").mkdir()
    (noted / "images" / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    change_json(noted / "generation_config.json", do_sample=True, temperature=0.7, top_p=0.9)

    assert (judged(model), judged(sharded), judged(noted)) == ([], [], [])
    assert structure.layout_findings(json.loads((model / "config.json").read_text()), _tensors(model)) == []


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "glm4"])
def test_a_good_folder_loads_and_writes(tmp_path: Path, family: str) -> None:
    write_family(family, tmp_path / "model")

    status, _, report = validate(tmp_path / "model", tmp_path / "job", generate=True)

    assert (status, codes(report, "error", "warning")) == (0, [])
    assert report["facts"]["chat"] is True


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_a_good_reward_model_raises_no_alarm(tmp_path: Path, family: str) -> None:
    write_family(family, tmp_path / "base")
    scores = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    shutil.copytree(tmp_path / "base", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    scores.save_pretrained(tmp_path / "model")

    status, _, report = validate(tmp_path / "model", tmp_path / "job", generate=True)

    assert (status, codes(report, "error", "warning")) == (0, [])
    change_json(tmp_path / "model" / "config.json", id2label={"0": "bad", "1": "good"})
    assert "tensor_shape_wrong" in codes(validate(tmp_path / "model", tmp_path / "again")[2])


def _tensors(model: Path) -> list:
    return judge_headers(ValidateSpec(model=str(model))).weights.tensors
