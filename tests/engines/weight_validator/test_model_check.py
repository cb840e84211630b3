"""Every kind of damage to a model folder is found, named and survived; a healthy folder has no findings."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folder_builders import WEIGHTS, change_header, change_json, change_tensors, codes, shard, validate

Damage = Callable[[Path], object]


def test_a_healthy_folder_has_no_findings_and_its_facts_are_told(model: Path, tmp_path: Path) -> None:
    status, result, report = validate(
        model, tmp_path / "job", generate=True, expected_architecture="llama", expected_quantised=False
    )

    assert status == 0
    assert result.status == "succeeded"
    assert report["findings"] == []
    facts = report["facts"]
    assert (facts["architecture"], facts["dtype"], facts["max_length"]) == ("llama", "BF16", 256)
    assert len(facts[f"sha256:{WEIGHTS}"]) == 64


def test_a_healthy_sharded_folder_has_no_findings(model: Path, tmp_path: Path) -> None:
    shard(model)

    status, _, report = validate(model, tmp_path / "job", generate=True)

    assert (status, report["findings"]) == (0, [])


def write(name: str, content: str | bytes = "") -> Damage:
    return lambda model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content)


def remove(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def config(*gone: str, **change: object) -> Damage:
    return lambda model: change_json(model / "config.json", *gone, **change)


def generation(**change: object) -> Damage:
    return lambda model: change_json(model / "generation_config.json", **change)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return lambda model: change_tensors(model, change)


def header(change: Callable[[dict[str, dict]], object], tail: bytes = b"") -> Damage:
    return lambda model: change_header(model / WEIGHTS, change, tail=tail)


def one_of(entries: dict[str, dict], place: int = 0) -> dict:
    return sorted((entry for name, entry in entries.items() if name[0] != "_"), key=lambda e: e["data_offsets"])[place]


def poison(value: float, dtype: torch.dtype) -> Damage:
    def change(held: dict[str, torch.Tensor]) -> None:
        held["model.norm.weight"] = held["model.norm.weight"].to(dtype).clone()
        held["model.norm.weight"][5] = value

    return tensors(change)


def without_index_entry(model: Path) -> None:
    index = shard(model)
    content = json.loads(index.read_text())
    content["weight_map"].popitem()
    index.write_text(json.dumps(content))


def with_wrong_index_entry(model: Path) -> None:
    index = shard(model)
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors"
    content["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))


def said_twice(name: str, key: str, value: object) -> Damage:
    def damage(model: Path) -> None:
        text = (model / name).read_text("utf-8").rstrip()
        (model / name).write_text(f"{text[:-1]}, {json.dumps(key)}: {json.dumps(value)}}}", encoding="utf-8")

    return damage


def with_another_total(model: Path) -> None:
    index = shard(model)
    content = json.loads(index.read_text())
    content["metadata"]["total_size"] = 1
    index.write_text(json.dumps(content))


def without_shard(model: Path) -> None:
    shard(model)
    (model / "model-00002-of-00002.safetensors").unlink()


def tokens_beyond_the_embedding(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text("utf-8"))
    first = content["added_tokens"][0]
    content["added_tokens"] += [{**first, "id": number, "content": f"<|{number}|>"} for number in range(300, 400)]
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


NORM, DOWN = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (remove("config.json"), "config_unreadable"),
    "config is text": (write("config.json", "hello"), "config_unreadable"),
    "config is a list": (write("config.json", "[]"), "config_unreadable"),
    "config is deep": (write("config.json", '{"a":' + "[" * 100_000), "config_unreadable"),
    "config is binary": (write("config.json", b"\xff\xfe\x00"), "config_unreadable"),
    "a width said twice": (said_twice("config.json", "hidden_size", 1), "config_unreadable"),
    "sampling said twice": (
        write("generation_config.json", '{"do_sample": true, "do_sample": false}'), "generation_config_not_json",
    ),
    "generation config is text": (write("generation_config.json", "temperature=1"), "generation_config_not_json"),
    "temperature without do_sample": (generation(temperature=0.7), "do_sample_missing"),
    "top_p with do_sample false": (generation(top_p=0.9, do_sample=False), "do_sample_missing"),
    "top_k alone": (generation(top_k=5), "do_sample_missing"),
    "no model type": (config("model_type"), "structure_differs"),
    "no hidden size": (config("hidden_size"), "structure_differs"),
    "no layer count": (config("num_hidden_layers"), "structure_differs"),
    "hidden size as text": (config(hidden_size="64"), "structure_differs"),
    "a million layers": (config(num_hidden_layers=10**6), "structure_differs"),
    "negative heads": (config(num_attention_heads=-4), "structure_differs"),
    "odd groups": (config(num_key_value_heads=3), "structure_differs"),
    "more layers promised": (config(num_hidden_layers=3), "structure_differs"),
    "another width promised": (config(intermediate_size=128), "tensor_shape_wrong"),
    "another vocabulary promised": (config(vocab_size=321), "tensor_shape_wrong"),
    "untied embeddings promised": (config(tie_word_embeddings=False), "tensor_missing"),
    "code asked for": (config(auto_map={"AutoModel": "m.M"}), "remote_code"),
    "code in the folder": (write("modeling_x.py", "raise SystemExit('run')"), "remote_code"),
    "code in a folder below": (lambda m: ((m / "a").mkdir(), write("a/b.py")(m)), "remote_code"),
    "a pickle": (write("pytorch_model.bin", b"\x80\x04."), "pickled_weights"),
    "a checkpoint": (write("optimizer.pt", b"PK"), "pickled_weights"),
    "a pickle with capitals": (write("Model.PTH", b"PK"), "pickled_weights"),
    "no weights": (remove(WEIGHTS), "weights_missing"),
    "a pickle instead of weights": (write(WEIGHTS, b"\x80\x04\x95" + b"\0" * 64), "pickled_weights"),
    "an empty file": (write(WEIGHTS, b""), "header_invalid"),
    "a header of an exabyte": (write(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"), "header_invalid"),
    "a header that is no JSON": (write(WEIGHTS, struct.pack("<Q", 4) + b"{[}]"), "header_invalid"),
    "a header that is a list": (write(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "header_invalid"),
    "a name twice": (write(WEIGHTS, struct.pack("<Q", 13) + b'{"a":1,"a":2}'), "header_invalid"),
    "no tensors": (write(WEIGHTS, struct.pack("<Q", 2) + b"{}"), "header_invalid"),
    "an unknown dtype": (header(lambda h: one_of(h).update(dtype="F128")), "header_invalid"),
    "a negative shape": (header(lambda h: one_of(h).update(shape=[-1])), "header_invalid"),
    "a truth value as shape": (header(lambda h: one_of(h).update(shape=[True])), "header_invalid"),
    "no shape": (header(lambda h: one_of(h).pop("shape") and None), "header_invalid"),
    "a place outside": (header(lambda h: one_of(h).update(data_offsets=[0, 10**12])), "header_invalid"),
    "a place too small": (header(lambda h: one_of(h, 1).update(data_offsets=[0, 2])), "header_invalid"),
    "bytes behind the end": (header(lambda h: None, tail=b"more"), "header_invalid"),
    "a gap": (header(lambda h: h.pop(NORM) and None), "header_invalid"),
    "an overlap": (header(lambda h: h[NORM].update(data_offsets=h["model.layers.0.input_layernorm.weight"]
                                                   ["data_offsets"])), "tensor_overlap"),
    "cut off": (lambda m: os.truncate(m / WEIGHTS, 50_000), "header_invalid"),
    "a tensor missing": (tensors(lambda t: t.pop(DOWN)), "tensor_missing"),
    "a tensor too much": (tensors(lambda t: t.update(extra=torch.ones(2))), "tensor_surplus"),
    "a tensor turned": (tensors(lambda t: t.update({DOWN: t[DOWN].T.contiguous()})), "tensor_shape_wrong"),
    "NaN in bf16": (poison(float("nan"), torch.bfloat16), "not_finite"),
    "infinity in fp16": (poison(float("inf"), torch.float16), "not_finite"),
    "minus infinity in fp32": (poison(-float("inf"), torch.float32), "not_finite"),
    "NaN in fp64": (poison(float("nan"), torch.float64), "not_finite"),
    "an index with a tensor missing": (without_index_entry, "index_incomplete"),
    "an index that misplaces": (with_wrong_index_entry, "index_incomplete"),
    "a part missing": (without_shard, "index_incomplete"),
    "an index without metadata": (lambda m: change_json(shard(m), "metadata"), "index_incomplete"),
    "parts without index": (lambda m: shard(m).unlink(), "index_incomplete"),
    "an index that is text": (lambda m: shard(m).write_text("x"), "index_incomplete"),
    "weights under another name": (lambda m: (m / WEIGHTS).rename(m / "best.safetensors"), "index_incomplete"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer_not_loadable"),
    "a broken tokenizer": (write("tokenizer.json", "{}"), "tokenizer_not_loadable"),
    "more tokens than rows": (tokens_beyond_the_embedding, "vocabulary_too_small"),
    "a link out": (lambda m: (m / "notes.txt").symlink_to("/etc/hostname"), "path_escape"),
    "a link to nowhere": (lambda m: (m / "notes.txt").symlink_to("gone.txt"), "path_escape"),
    "a link out through a folder": (lambda m: (m / "sub").symlink_to(".."), "path_escape"),
    "a pipe": (lambda m: os.mkfifo(m / "extra.json"), "special_file"),
    "a template that does not parse": (write("chat_template.jinja", "{% if %}"), "chat_template_invalid"),
    "a template that raises": (write("chat_template.jinja", "{{ 1 / 0 }}"), "chat_template_invalid"),
    "a template that forgets": (write("chat_template.jinja", "{{ messages[0].role }}"), "chat_template_invalid"),
    "a template that never ends": (
        write("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "chat_template_invalid",
    ),
    "a template that writes for ever": (
        write("chat_template.jinja", "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"),
        "chat_template_invalid",
    ),
    "a template that eats memory": (write("chat_template.jinja", "{{ 'x' * 10**11 }}"), "chat_template_invalid"),
    "a template that breaks out": (
        write("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "chat_template_invalid",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "code"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(model: Path, tmp_path: Path, damage: Damage, code: str) -> None:
    damage(model)

    status, result, report = validate(model, tmp_path / "job")

    assert status == 2
    assert code in codes(report)
    assert result.error is not None
    assert result.error.code == "weights_invalid"
    assert sorted(result.error.details, key=str) == sorted(report["findings"], key=str)
    assert all(finding["where"] and finding["message"] and finding["remedy"] for finding in report["findings"])


REMARKS: dict[str, tuple[Damage, str]] = {
    "no template": (remove("chat_template.jinja"), "chat_template_missing"),
    "no licence": (remove("LICENSE"), "licence_missing"),
    "no class named": (config("architectures"), "structure_differs"),
    "another type promised": (config(dtype="float32"), "dtype_differs"),
    "types mixed": (tensors(lambda t: t.update({NORM: t[NORM].float()})), "dtype_mixed"),
    "a total that is none": (with_another_total, "total_size_differs"),
    "a family of its own": (config(model_type="brand_new"), "structure_not_compared"),
    "a template that refuses system": (
        write(
            "chat_template.jinja",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        ),
        "chat_template_without_system",
    ),
}


@pytest.mark.parametrize(("damage", "code"), REMARKS.values(), ids=REMARKS.keys())
def test_a_remark_is_made_without_an_error_of_that_code(model: Path, tmp_path: Path, damage: Damage, code: str) -> None:
    damage(model)

    _, _, report = validate(model, tmp_path / "job")

    assert code in codes(report, "warning", "info")
    assert code not in codes(report)


@pytest.mark.parametrize(
    ("damage", "expected", "code"),
    [
        (config(), {"expected_quantised": True}, "quantization_config_missing"),
        (config(quantization_config={"bits": 4}), {"expected_quantised": False}, "quantization_config_unexpected"),
        (config(), {"expected_architecture": "qwen2"}, "structure_differs"),
    ],
)
def test_what_the_gallery_says_is_compared(
    model: Path, tmp_path: Path, damage: Damage, expected: dict[str, object], code: str
) -> None:
    damage(model)

    _, _, report = validate(model, tmp_path / "job", **expected)

    assert code in codes(report)


@pytest.mark.parametrize("target", ["gone", "config.json"])
def test_a_single_file_is_no_folder(model: Path, tmp_path: Path, target: str) -> None:
    _, _, report = validate(model / target, tmp_path / "job")

    assert codes(report, "error", "warning", "info") == ["not_a_folder"]


def test_one_fault_does_not_hide_the_others(model: Path, tmp_path: Path) -> None:
    for name in ("no config", "a pickle", "NaN in bf16", "no tokenizer", "temperature without do_sample"):
        DAMAGES[name][0](model)
    DAMAGES["a template that does not parse"][0](model)

    _, _, report = validate(model, tmp_path / "job", generate=True)

    assert {
        "config_unreadable", "pickled_weights", "not_finite", "tokenizer_not_loadable", "do_sample_missing",
        "chat_template_invalid",
    } <= set(codes(report))  # fmt: skip
    assert "stage_skipped" in codes(report, "info")


def test_code_of_the_folder_is_never_run(model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    (model / "modeling_x.py").write_text(f"open({str(trace)!r}, 'w')\nclass M: pass\n")
    change_json(model / "config.json", auto_map={"AutoConfig": "modeling_x.M", "AutoModelForCausalLM": "modeling_x.M"})
    change_json(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_x.M", None]})

    _, _, report = validate(model, tmp_path / "job", generate=True)

    assert codes(report).count("remote_code") == 3
    assert not trace.exists()


def test_a_link_to_a_file_of_the_same_folder_is_followed(model: Path, tmp_path: Path) -> None:
    (model / WEIGHTS).rename(model / "blob.safetensors")
    (model / WEIGHTS).symlink_to("blob.safetensors")

    status, _, report = validate(model, tmp_path / "job")

    assert status == 0
    assert codes(report, "info") == ["file_not_used"]


def test_many_findings_of_one_code_are_shortened(model: Path, tmp_path: Path) -> None:
    for number in range(70):
        (model / f"{number}.py").touch()

    _, _, report = validate(model, tmp_path / "job")

    assert codes(report).count("remote_code") == 50
    assert "20 more" in report["findings"][-1]["message"]


def test_a_family_without_table_is_compared_by_loading(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", model_type="smollm3", no_rope_layers=[1, 1], no_rope_layer_interval=2)
    change_tensors(model, lambda held: held.pop(DOWN))

    _, _, report = validate(model, tmp_path / "job", generate=True)

    assert codes(report) == ["tensor_missing"]


def test_weights_that_overflow_when_used_are_found_by_the_proof_of_life(model: Path, tmp_path: Path) -> None:
    change_tensors(model, lambda held: held.update({NORM: torch.full_like(held[NORM], 3e38)}))

    _, _, report = validate(model, tmp_path / "job", generate=True)

    assert codes(report) == ["not_finite"]
