"""The eleven findings of SPEC MO4, each with its one code and several at once; and the verdict on headers alone."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from folder_builders import WEIGHTS, change_header, change_json, change_tensors, codes, validate
from transformers import AutoConfig

from finery_contracts.jobs import EngineJob, JobResult, ValidateSpec
from finery_ml.job import JobFolder, Terminated
from finery_weight_validator.engine import check
from finery_weight_validator.engine.published import compare

PUBLISHED = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 320, "rope_theta": 10000,
             "rms_norm_eps": 1e-6, "architectures": ["LlamaForCausalLM"], "rope_scaling": None}  # fmt: skip


def test_a_folder_with_everything_wrong_at_once_is_told_all_of_it(model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").unlink()
    templates = [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
    change_json(model / "tokenizer_config.json", chat_template=templates)
    (model / "generation_config.json").write_text("temperature: 1")
    (model / "config.json").unlink()
    (model / "tokenizer.json").write_text("{}")
    (model / WEIGHTS).write_bytes(b"\0" * 7)

    status, _, report = validate(
        model, tmp_path / "job", generate=True, published_config={}, expected_quantised=True
    )  # fmt: skip

    assert status == 2
    assert set(codes(report)) >= {
        "metadata_not_chosen", "reference_config_unreadable", "generation_config_not_json", "config_unreadable",
        "quantization_config_missing", "tokenizer_not_loadable", "weights_not_loadable",
    }  # fmt: skip


def test_the_findings_that_exclude_those_come_together_too(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", "model_type", quantization_config={"quant_method": "awq"}, hidden_size=32)
    change_json(model / "generation_config.json", temperature=0.5)
    (model / "tokenizer.json").write_text("{}")
    (model / WEIGHTS).write_bytes(b"\0" * 7)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "view").write_text("in the way of the engine's own folder")
    spec = ValidateSpec(model=str(model), expected_quantised=False, published_config=PUBLISHED)

    with _opened(tmp_path / "job", spec) as work:
        report = check.look_over(work, spec).model_dump()

    assert set(codes(report)) >= {
        "metadata_not_chosen", "do_sample_missing", "quantization_config_unexpected", "structure_differs",
        "weights_not_loadable", "check_failed",
    }  # fmt: skip
    failed = next(finding for finding in report["findings"] if finding["code"] == "check_failed")
    assert failed["where"].startswith("log.txt")
    assert "FileExistsError" in failed["message"] or "NotADirectoryError" in failed["message"]


def test_each_key_that_differs_from_the_published_one_is_told_with_both_values(model: Path, tmp_path: Path) -> None:
    published = {**PUBLISHED, "hidden_size": 128, "num_experts": 8, "hidden_act": "silu", "torch_dtype": "float16"}

    _, _, report = validate(model, tmp_path / "job", published_config=published)

    told = {f["data"]["key"]: f["data"] for f in report["findings"] if f["code"] == "structure_differs"}
    assert told == {
        "hidden_size": {"key": "hidden_size", "published": 128, "found": 64},
        "num_experts": {"key": "num_experts", "published": 8, "found": None},
    }


def test_a_config_as_it_was_published_has_no_findings(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", rms_norm_eps=9.999999974752427e-07)  # as a GGUF file gives it back

    assert validate(model, tmp_path / "job", published_config=PUBLISHED)[2]["findings"] == []


@pytest.mark.parametrize(("model_type", "published"), [
    ("gemma3_text", {"rope_theta": 1000000, "rope_local_base_freq": 10000, "num_hidden_layers": 2}),
    ("qwen3_moe", {"num_experts": 16, "num_experts_per_tok": 2, "rope_theta": 1000000}),
])  # fmt: skip
def test_a_config_that_was_saved_again_says_the_same_in_other_places(
    tmp_path: Path, model_type: str, published: dict[str, Any]
) -> None:
    AutoConfig.for_model(model_type, **published).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())

    assert compare(saved, {"model_type": model_type, **published}) == []
    for key, value in published.items():
        other = compare(saved, {"model_type": model_type, **published, key: value * 2})
        assert [finding.where for finding in other] == [f"config.json: {key}"]


@pytest.mark.parametrize("reference", [{}, {"model_type": 1, "hidden_size": 64}, {"transformers_version": "5"}])
def test_a_reference_that_cannot_be_compared_with_is_told(
    model: Path, tmp_path: Path, reference: dict[str, Any]
) -> None:
    assert codes(validate(model, tmp_path / "job", published_config=reference)[2]) == ["reference_config_unreadable"]


@pytest.mark.parametrize(("reference", "config", "code"), [
    ({**PUBLISHED, "quantization_config": {"bits": 4}}, {}, "quantization_config_missing"),
    ({**PUBLISHED, "quantization_config": None}, {"quantization_config": {"bits": 4}},
    "quantization_config_unexpected"),
])  # fmt: skip
def test_the_published_config_says_whether_the_model_is_quantised(
    model: Path, tmp_path: Path, reference: dict[str, Any], config: dict[str, Any], code: str
) -> None:
    change_json(model / "config.json", **config)

    assert codes(validate(model, tmp_path / "job", published_config=reference)[2]) == [code]


def test_weights_that_are_quantised_need_a_config_that_says_so(model: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    change_header(model / WEIGHTS, lambda h: h.update({name.replace(".weight", ".qweight"): h.pop(name)}))

    assert "quantization_config_missing" in codes(validate(model, tmp_path / "job")[2])


@pytest.mark.parametrize("name", ["BertModel", "Qwen2ForCausalLM"])
def test_a_class_of_another_family_is_told(model: Path, tmp_path: Path, name: str) -> None:
    change_json(model / "config.json", architectures=[name])
    _, _, report = validate(model, tmp_path / "job")
    (told,) = [finding for finding in report["findings"] if finding["severity"] == "warning"]
    assert (told["code"], told["where"]) == ("structure_differs", "config.json: architectures")
    assert name in told["message"]
    assert "LlamaForCausalLM" in told["message"]


def test_a_window_that_is_switched_off_is_no_fault(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", sliding_window=0, use_sliding_window=False)
    assert validate(model, tmp_path / "job")[2]["findings"] == []
    change_json(model / "config.json", sliding_window=-1)
    assert codes(validate(model, tmp_path / "again")[2]) == ["structure_differs"]


def test_a_config_that_would_be_copied_for_minutes_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", junk=[0] * 2_000_000)
    status, _, report = validate(model, tmp_path / "job", generate=True)
    assert (status, codes(report)[0]) == (2, "config_unreadable")


def test_a_number_that_no_computer_holds_is_refused(model: Path, tmp_path: Path) -> None:
    text = (model / "config.json").read_text()
    assert "1e-06" in text
    (model / "config.json").write_text(text.replace("1e-06", "1e400"))
    assert "config_unreadable" in codes(validate(model, tmp_path / "job")[2])


def test_an_architecture_that_nobody_knows_has_no_metadata(model: Path, tmp_path: Path) -> None:
    change_json(model / "config.json", model_type="brand_new")

    assert "metadata_not_chosen" in codes(validate(model, tmp_path / "job")[2])


def test_the_verdict_on_headers_comes_first_and_can_be_had_alone(model: Path, tmp_path: Path) -> None:
    change_tensors(model, lambda held: held["model.norm.weight"].fill_(float("nan")))

    status, _, report = validate(model, tmp_path / "job", depth="headers")
    _, _, full = validate(model, tmp_path / "full")

    assert (status, report["findings"]) == (0, [])
    assert codes(full) == ["not_finite"]
    lines = [json.loads(line) for line in (tmp_path / "full" / "progress.jsonl").read_text().splitlines()]
    told = [line.get("message", "") for line in lines]
    assert told.index("checking values") > next(n for n, text in enumerate(told) if text.startswith("headers judged"))


def test_fifty_gigabytes_are_judged_by_their_headers_at_once(model: Path, tmp_path: Path) -> None:
    _write_hollow(model)

    status, result, report = validate(model, tmp_path / "job", depth="headers")

    assert (status, set(codes(report, "warning"))) == (0, {"weights_hollow", "dtype_mixed"}), result.error
    assert report["facts"]["size_bytes"] > 50 * 10**9
    assert report["facts"]["headers_ms"] < 250  # a loaded machine; `make bench` measures it


def test_a_file_of_holes_is_not_read(model: Path, tmp_path: Path) -> None:
    _write_hollow(model)

    _, _, report = validate(model, tmp_path / "job", generate=True)

    assert codes(report) == ["weights_hollow", "weights_not_loadable"]


def test_tied_embeddings_that_differ_are_told(model: Path, tmp_path: Path) -> None:
    change_tensors(model, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"] * 2}))
    _, _, differing = validate(model, tmp_path / "one")
    change_tensors(model, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"].clone()}))
    _, _, alike = validate(model, tmp_path / "two")

    assert codes(differing, "warning") == ["tied_embeddings_differ"]
    assert alike["findings"] == []


def test_checksums_that_the_folder_carries_are_compared(model: Path, tmp_path: Path) -> None:
    digest = validate(model, tmp_path / "first")[2]["facts"][f"sha256:{WEIGHTS}"]
    (model / "SHA256SUMS").write_text(f"{digest}  ./{WEIGHTS}\n{'0' * 64} *../../etc/passwd\n")
    _, _, right = validate(model, tmp_path / "right")
    (model / f"{WEIGHTS}.sha256").write_text("f" * 64)
    _, _, wrong = validate(model, tmp_path / "wrong")

    assert right["findings"] == []
    assert codes(wrong) == ["checksum_wrong"]
    assert wrong["findings"][0]["data"] == {"published": "f" * 64, "found": digest}


def test_a_normaliser_that_forgets_is_a_warning(model: Path, tmp_path: Path) -> None:
    change_json(model / "tokenizer.json", normalizer={"type": "Lowercase"})

    status, _, report = validate(model, tmp_path / "job")

    assert (status, codes(report, "warning", "error")) == (0, ["tokenizer_lossy"])
    assert "German" in report["findings"][0]["data"]["scripts"]


def test_a_scanner_says_what_a_refused_file_would_call(model: Path, tmp_path: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")

    _, result, report = validate(model, tmp_path / "job")

    assert result.error is not None
    refused = report["findings"][0]
    assert (refused["code"], refused["data"]["scan"]["verdict"]) == ("pickled_weights", "dangerous")
    assert refused["data"]["scan"]["dangerous"] in (["posix.system"], ["os.system"])
    assert "save_pretrained" in refused["remedy"]


def test_the_engine_stops_when_it_is_asked_to(model: Path, tmp_path: Path) -> None:
    with _opened(tmp_path / "job", ValidateSpec(model=str(model))) as work:
        work.stop_requested.set()

        with pytest.raises(Terminated):
            check.check(work)


@contextmanager
def _opened(folder: Path, spec: ValidateSpec) -> Iterator[JobFolder]:
    folder.mkdir(exist_ok=True)
    job = EngineJob(task_id="task_1", attempt=1, project_id="proj_1", spec=spec)
    (folder / "job.json").write_text(job.model_dump_json())
    work = JobFolder(folder)
    yield work
    work.leave(JobResult(status="terminated"))


def _write_hollow(model: Path) -> None:
    """The healthy folder with an embedding of 50 GB, and no byte of data that was ever written."""
    rows, sizes = 98_000_000, {"BF16": 2, "F64": 8}
    raw = (model / WEIGHTS).read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    header["model.embed_tokens.weight"].update(shape=[rows, 64], dtype="F64")
    begin = 0
    for entry in (entry for name, entry in header.items() if name[0] != "_"):
        size = sizes[entry["dtype"]] * math.prod(entry["shape"])
        entry["data_offsets"] = [begin, begin + size]
        begin += size
    text = json.dumps(header).encode()
    (model / WEIGHTS).unlink()
    with (model / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begin)
    change_json(model / "config.json", vocab_size=rows)
