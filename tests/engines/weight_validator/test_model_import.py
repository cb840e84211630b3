"""The import engine: what it copies, refuses and repairs, and that a GGUF file comes through exactly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from folder_builders import TEMPLATE, WEIGHTS, change_json, codes, run_engine, validate
from hostile_values import ggufs
from transformers import AutoModelForCausalLM, AutoTokenizer

from finery_contracts.jobs import ImportSpec, JobResult
from finery_weight_validator.engine import convert


def import_model(source: Path, work: Path, **spec: Any) -> tuple[int, JobResult, Path]:
    status, result = run_engine(convert.main, work, ImportSpec(source=str(source), **spec))
    return status, result, work / "out" / "model"


def test_a_folder_of_safetensors_is_copied_and_described(model: Path, tmp_path: Path) -> None:
    status, result, made = import_model(model, tmp_path / "job")

    assert status == 0, result.error
    assert result.output is not None
    facts = result.output.model_dump()
    assert (facts["architecture"], facts["dtype"], facts["max_length"]) == ("llama", "bfloat16", 256)
    assert facts["parameters"] == 320 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96 + 2 * 64)
    assert (made / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert validate(made, tmp_path / "check", generate=True)[2]["findings"] == []


def test_the_copy_is_no_link_to_the_users_file(model: Path, tmp_path: Path) -> None:
    _, _, made = import_model(model, tmp_path / "job")

    assert not os.path.samefile(made / WEIGHTS, model / WEIGHTS)
    assert (made / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_only_known_kinds_of_files_are_copied(model: Path, tmp_path: Path) -> None:
    for name in ("notes.docx", "run.log", ".git", "big.onnx"):
        (model / name).write_text("x")
    (model / "eval").mkdir()
    (model / "eval" / "scores.json").write_text("{}")

    _, _, made = import_model(model, tmp_path / "job")

    assert {path.name for path in made.iterdir()} == {
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", WEIGHTS, "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def make_hollow(model: Path) -> None:
    raw = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).write_bytes(raw[: 8 + int.from_bytes(raw[:8], "little")])
    os.truncate(model / WEIGHTS, len(raw))


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**29)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda m: (m / "pytorch_model.bin").write_bytes(b"\x80"), "pickled_weights"),
    "a pickle below": (lambda m: ((m / "a").mkdir(), (m / "a" / "x.pkl").touch()), "pickled_weights"),
    "code": (lambda m: (m / "modeling.py").touch(), "remote_code"),
    "code asked for": (lambda m: change_json(m / "config.json", auto_map={"a": "b"}), "remote_code"),
    "a link out": (lambda m: (m / "x.txt").symlink_to("/etc/hostname"), "path_escape"),
    "a pipe": (lambda m: os.mkfifo(m / "x.json"), "special_file"),
    "no config": (lambda m: (m / "config.json").unlink(), "config_unreadable"),
    "config no JSON": (lambda m: (m / "config.json").write_text("x"), "config_unreadable"),
    "generation config no JSON": (
        lambda m: (m / "generation_config.json").write_text("x"),
        "generation_config_not_json",
    ),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "weights_missing"),
    "weights cut off": (lambda m: os.truncate(m / WEIGHTS, 1_000), "header_invalid"),
    "weights never written": (make_hollow, "weights_hollow"),
    "a text larger than any": (lambda m: make_large(m / "vocab.txt"), "file_too_large"),
}


@pytest.mark.parametrize(("damage", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_folder_that_cannot_be_used_is_refused_by_code(
    model: Path, tmp_path: Path, damage: Callable[[Path], object], code: str
) -> None:
    damage(model)

    status, result, made = import_model(model, tmp_path / "job")

    assert status == 2
    assert result.error is not None
    assert result.error.code == code
    assert not made.exists()


@pytest.mark.parametrize("name", ["config.json", "gone"])
def test_a_single_file_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    _, result, _ = import_model(model / name, tmp_path / "job")

    assert result.error is not None
    assert result.error.code == "not_a_folder"


def test_all_faults_are_named_at_once(model: Path, tmp_path: Path) -> None:
    (model / "a.py").touch()
    (model / "b.bin").touch()

    _, result, _ = import_model(model, tmp_path / "job")

    assert result.error is not None
    assert codes({"findings": result.error.details}) == ["remote_code", "pickled_weights"]


def test_overrides_reach_tokenizer_config_and_generation_alike(model: Path, tmp_path: Path) -> None:
    overrides = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 128}

    _, result, made = import_model(model, tmp_path / "job", overrides=overrides, family="Tiny")

    tokenizer = AutoTokenizer.from_pretrained(made)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == (
        "<|endoftext|>", "<|endoftext|>", 128,
    )  # fmt: skip
    for name in ("config.json", "generation_config.json"):
        content = json.loads((made / name).read_text())
        assert (content["eos_token_id"], content["pad_token_id"]) == (0, 0)
    assert result.output is not None
    assert result.output.model_dump()["max_length"] == 128


def test_other_end_tokens_stay_beside_an_override(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", eos_token_id=[2, 1])

    _, _, made = import_model(model, tmp_path / "job", overrides={"eos_token": "<|endoftext|>"})

    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == [0, 2, 1]


def test_an_end_token_that_contradicts_the_config_is_repaired(model: Path, tmp_path: Path) -> None:
    change_json(model / "tokenizer_config.json", eos_token="<|im_start|>", model_max_length=10**30)

    _, _, made = import_model(model, tmp_path / "job")

    tokenizer = AutoTokenizer.from_pretrained(made)
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", 256)


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ({"bos_token": "x"}, "override_unknown"),
        ({"eos_token": "<|gone|>"}, "token_unknown"),
        ({"model_max_length": "long"}, "override_invalid"),
    ],
)
def test_a_wrong_override_is_refused(model: Path, tmp_path: Path, overrides: dict[str, Any], code: str) -> None:
    _, result, _ = import_model(model, tmp_path / "job", overrides=overrides)

    assert result.error is not None
    assert result.error.code == code


def test_a_gguf_file_gives_the_model_it_was_made_from(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_gguf(model, source / "tiny.gguf")

    status, result, made = import_model(source, tmp_path / "job", family="Tiny")

    assert status == 0, result.error
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, made))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("<|im_end|>", "<|im_end|>", 256)
    assert validate(made, tmp_path / "check", generate=True)[2]["findings"] == []


def test_numbers_are_cut_into_digits_as_the_gguf_says(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "source" / "tiny.gguf")

    _, _, made = import_model(tmp_path / "source", tmp_path / "job")

    tokenizer = AutoTokenizer.from_pretrained(made)
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x  12")
    assert [text for text, _ in pieces] == ["x", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer("a . 1 2 ä")["input_ids"]) == "a . 1 2 ä"


GGUFS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no GGUF": (lambda f: (f / "a.gguf").write_bytes(b"PK" + b"\0" * 50), {}, "gguf_invalid"),
    "cut off": (lambda f: os.truncate(f / "a.gguf", 5_000), {}, "gguf_invalid"),
    "empty": (lambda f: (f / "a.gguf").write_bytes(b""), {}, "gguf_invalid"),
    "two files": (lambda f: shutil.copy(f / "a.gguf", f / "b.gguf"), {}, "gguf_ambiguous"),
    "another name": (lambda f: None, {"gguf_file": "b.gguf"}, "gguf_missing"),
    "a path as name": (lambda f: None, {"gguf_file": "../a.gguf"}, "gguf_missing"),
}


@pytest.mark.parametrize(("damage", "spec", "code"), GGUFS.values(), ids=GGUFS.keys())
def test_a_gguf_file_that_cannot_be_used_is_refused(
    model: Path, tmp_path: Path, damage: Callable[[Path], object], spec: dict[str, Any], code: str
) -> None:
    write_gguf(model, tmp_path / "source" / "a.gguf")
    damage(tmp_path / "source")

    status, result, _ = import_model(tmp_path / "source", tmp_path / "job", **spec)

    assert status == 2
    assert result.error is not None
    assert result.error.code == code


@pytest.mark.parametrize("parts", [2, 5])
def test_a_split_gguf_file_gives_the_same_model_as_a_whole_one(model: Path, tmp_path: Path, parts: int) -> None:
    write_gguf(model, tmp_path / "whole" / "tiny.gguf")
    split(tmp_path / "whole" / "tiny.gguf", tmp_path / "parts", parts=parts)

    _, _, whole = import_model(tmp_path / "whole", tmp_path / "one", family="Tiny")
    status, result, made = import_model(tmp_path / "parts", tmp_path / "two", family="Tiny")

    assert status == 0, result.error
    assert (made / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (made / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()
    assert not list((tmp_path / "two").glob("*.gguf"))


def test_a_split_gguf_file_needs_all_its_parts(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "whole" / "tiny.gguf")
    split(tmp_path / "whole" / "tiny.gguf", tmp_path / "parts", parts=3)
    (tmp_path / "parts" / "tiny-00002-of-00003.gguf").unlink()

    status, result, _ = import_model(tmp_path / "parts", tmp_path / "job")

    assert (status, result.error.code if result.error else None) == (2, "gguf_split")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_1", "F16", "BF16"])
def test_quantised_gguf_weights_come_back_as_what_they_stand_for(model: Path, tmp_path: Path, kind: str) -> None:
    chosen = gguf.GGMLQuantizationType[kind]
    write_gguf(model, tmp_path / "source" / "tiny.gguf", kind=chosen)

    status, result, made = import_model(tmp_path / "source", tmp_path / "job")

    assert status == 0, result.error
    name = "model.layers.0.mlp.up_proj.weight"
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()[name].float().numpy()
    stands_for = gguf.dequantize(gguf.quantize(before, chosen), chosen)
    after = AutoModelForCausalLM.from_pretrained(made).state_dict()[name]
    assert torch.equal(after, torch.from_numpy(stands_for).to(torch.bfloat16))


def test_a_link_named_as_the_gguf_file_is_not_followed_out(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "elsewhere" / "secret.gguf")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.gguf").symlink_to(tmp_path / "elsewhere" / "secret.gguf")

    _, result, _ = import_model(tmp_path / "source", tmp_path / "job", gguf_file="a.gguf")

    assert (result.error.code if result.error else None) == "gguf_missing"


@pytest.mark.parametrize(("name", "damage"), list(ggufs()), ids=[name for name, _ in ggufs()])
def test_a_lying_gguf_header_is_refused_before_any_library_sees_it(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(tmp_path / "source")

    status, result, _ = import_model(tmp_path / "source", tmp_path / "job")

    assert (status, result.error.code if result.error else None) == (2, "gguf_invalid"), name


def split(path: Path, target: Path, *, parts: int) -> None:
    """As llama.cpp's gguf-split does: the first part has all keys, each has a share of the tensors."""
    reader = gguf.GGUFReader(path)
    target.mkdir()
    for number in range(parts):
        writer = gguf.GGUFWriter(target / f"{path.stem}-{number + 1:05d}-of-{parts:05d}.gguf", "llama")
        for key, value in reader.fields.items() if number == 0 else ():
            if key.startswith("GGUF.") or key == "general.architecture":
                continue
            inner = value.types[1] if len(value.types) > 1 else None
            writer.add_key_value(key, value.contents(), value.types[0], sub_type=inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_gguf(model: Path, path: Path, *, kind: gguf.GGMLQuantizationType | None = None) -> None:
    """The model as llama.cpp stores it: 32-bit floats, query and key rows in its order of rotation."""
    path.parent.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(model)
    merges = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    words += [f"<unused{number}>" for number in range(len(words), 320)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(320)
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in AutoModelForCausalLM.from_pretrained(model).state_dict().items():
        if name != "lm_head.weight":
            rows = rotated(name, value.float().numpy())
            packed = kind is not None and rows.ndim == 2 and "embed" not in name
            data = gguf.quantize(rows, kind) if packed else rows
            writer.add_tensor(gguf_name(name), data, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def rotated(name: str, value: np.ndarray) -> np.ndarray:
    heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
    if heads is None:
        return value
    rows, columns = value.shape
    return value.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def test_a_refused_folder_is_told_everything_that_is_wrong_with_it(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").write_text("{nope")
    change_json(model / "config.json", num_hidden_layers=7)

    status, result, made = import_model(model, tmp_path / "job")

    assert status == 2
    assert result.error is not None
    codes = {finding["code"] for finding in result.error.details if finding["severity"] == "error"}
    assert {"generation_config_not_json", "structure_differs"} <= codes
    assert not made.exists()


def test_a_refused_folder_is_told_what_the_gallery_knows_better(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").write_text("{nope")
    change_json(model / "config.json", quantization_config={"quant_method": "awq"})

    published = {"model_type": "llama", "hidden_size": 128}
    _, result, _ = import_model(model, tmp_path / "job", published_config=published, expected_quantised=False)

    assert result.error is not None
    found = {finding["code"]: finding["where"] for finding in result.error.details if finding["severity"] == "error"}
    assert found["structure_differs"] == "config.json: hidden_size"
    assert {"generation_config_not_json", "quantization_config_unexpected"} <= found.keys()


def test_a_folder_without_config_is_told_everything_else_too(model: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    (model / "generation_config.json").write_text("{nope")
    (model / "tokenizer.json").write_text("{}")

    status, result, _ = import_model(model, tmp_path / "job")

    assert status == 2
    assert result.error is not None
    codes = {finding["code"] for finding in result.error.details if finding["severity"] == "error"}
    assert {"config_unreadable", "generation_config_not_json", "tokenizer_not_loadable"} <= codes
