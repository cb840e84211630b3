"""Merging: the merged model answers as base and adapter do, in bounded memory; what cannot be folded in is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_builders import byte_tokenizer, change_json, run_engine, validate
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from finery_contracts.jobs import JobResult, MergeOutput, MergeSpec
from finery_weight_validator.engine import merge

TOLERANCE = 1e-5
"""Of logits in fp32. Measured on the tiny llama: 4e-7 at most."""
PROMPT = torch.tensor([[5, 17, 42, 7, 300, 11]])


def base_folder(folder: Path, *, dtype: torch.dtype = torch.float32, tied: bool = False) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("Apache-2.0")
    return folder


def adapter_folder(base: Path, folder: Path, **options: Any) -> Path:
    """An adapter whose every part is random, as after a tuning."""
    said = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(load(base), LoraConfig(**said))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.05
    model.save_pretrained(folder, save_embedding_layers=False)  # as the trainer does
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def merged(base: Path, adapter: Path, work: Path, **said: Any) -> tuple[JobResult, Path]:
    result = run_engine(merge.main, work, MergeSpec(model=str(base), adapter=str(adapter), **said))[1]
    return result, work / "out" / "model"


@torch.no_grad()
def distance(base: Path, adapter: Path, whole: Path) -> float:
    """The largest difference between the logits of base with adapter and of the merged model."""
    together = PeftModel.from_pretrained(load(base), str(adapter)).eval()
    plain = load(base)(PROMPT).logits
    with_adapter = together(PROMPT).logits
    assert (with_adapter - plain).abs().max() > 0.01, "the adapter changes nothing: the test would prove nothing"
    return float((with_adapter - load(whole)(PROMPT).logits).abs().max())


@pytest.mark.parametrize(
    "options",
    [
        {}, {"use_rslora": True},
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 32}},
        {"use_dora": True}, {"modules_to_save": ["lm_head", "norm"]}, {"target_modules": ["embed_tokens", "v_proj"]},
        {"target_modules": "all-linear"},
    ],
)  # fmt: skip
def test_a_merged_model_has_the_logits_of_base_and_adapter(tmp_path: Path, options: dict[str, Any]) -> None:
    base = base_folder(tmp_path / "base")
    adapter = adapter_folder(base, tmp_path / "adapter", **options)

    result, whole = merged(base, adapter, tmp_path / "job")

    assert result.status == "succeeded", result.error
    assert distance(base, adapter, whole) < TOLERANCE
    assert (whole / "LICENSE").read_text() == "Apache-2.0"
    assert (whole / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_layers_that_store_their_weights_the_other_way_round_are_merged_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2)).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    adapter = adapter_folder(tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)

    result, whole = merged(tmp_path / "base", adapter, tmp_path / "job")

    assert result.status == "succeeded", result.error
    assert distance(tmp_path / "base", adapter, whole) < TOLERANCE


def test_the_bases_dtype_stays_and_each_value_is_the_nearest_of_it(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16, tied=True)
    adapter = adapter_folder(base, tmp_path / "adapter")
    oracle = PeftModel.from_pretrained(load(base), str(adapter)).merge_and_unload().state_dict()

    result, whole = merged(base, adapter, tmp_path / "job")

    assert isinstance(result.output, MergeOutput)
    assert (result.output.dtype, result.output.merged_tensors) == ("bfloat16", 4)
    found = load_file(whole / "model.safetensors")
    assert found.keys() == load_file(base / "model.safetensors").keys()
    for name, tensor in found.items():
        assert tensor.dtype is torch.bfloat16
        assert torch.equal(tensor, oracle[name].to(torch.bfloat16)), name
    assert validate(whole, tmp_path / "check", generate=True)[2]["findings"] == []


def test_large_weights_become_several_files_and_an_index_that_validate(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16)
    big = tmp_path / "wide"
    shutil.copytree(base, big)
    config = json.loads((big / "config.json").read_text())
    LlamaForCausalLM(LlamaConfig(**{**config, "hidden_size": 512, "head_dim": 128, "intermediate_size": 1024})).to(
        torch.bfloat16
    ).save_pretrained(big)
    adapter = adapter_folder(big, tmp_path / "adapter")

    result, whole = merged(big, adapter, tmp_path / "job", max_shard_bytes=2**20)

    assert result.status == "succeeded", result.error
    assert len(list(whole.glob("model-*-of-*.safetensors"))) > 1
    assert validate(whole, tmp_path / "check", generate=True)[2]["findings"] == []
    assert distance(big, adapter, whole) < 0.05  # rounded to bf16


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"peft_type": "LOHA"}, "adapter_not_mergeable"),
        ({"bias": "all"}, "adapter_not_mergeable"),
        ({"init_lora_weights": "pissa"}, "adapter_not_mergeable"),
        ({"layer_replication": [[0, 2]]}, "adapter_not_mergeable"),
        ({"use_dora": True}, "adapter_not_mergeable"),
        ({"lora_alpha": "many"}, "adapter_not_mergeable"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    base = base_folder(tmp_path / "base")
    adapter = adapter_folder(base, tmp_path / "adapter")
    change_json(adapter / "adapter_config.json", **change)

    result, whole = merged(base, adapter, tmp_path / "job")

    assert result.error is not None
    assert result.error.code == code
    assert not whole.exists()


def renamed(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    adapter = adapter_folder(base, tmp_path / "adapter")
    renamed(adapter, "q_proj", "query")
    assert merged(base, adapter, tmp_path / "a")[0].error.code == "adapter_target_missing"  # type: ignore[union-attr]

    renamed(adapter, "query", "k_proj")  # there, but of another shape
    assert merged(base, adapter, tmp_path / "b")[0].error.code == "adapter_not_mergeable"  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True:UserWarning")
def test_tied_embeddings_and_quantised_bases_are_refused(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", tied=True)
    adapter = adapter_folder(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    refused = merged(base, adapter, tmp_path / "a")[0].error
    assert refused is not None
    assert (refused.code, "one tensor" in refused.message) == ("adapter_not_mergeable", True)

    plain = adapter_folder(base, tmp_path / "plain")
    change_json(base / "config.json", quantization_config={"quant_method": "awq"})
    assert merged(base, plain, tmp_path / "b")[0].error.code == "adapter_not_mergeable"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    base = base_folder(tmp_path / "base")
    adapter = adapter_folder(base, tmp_path / "adapter")
    (adapter / name).write_bytes(b"\x80\x04rubbish")

    result, _ = merged(base, adapter, tmp_path / "job")

    assert result.error is not None
    assert result.error.code in ("adapter_unreadable", "header_invalid")


@pytest.mark.slow
def test_memory_stays_flat_however_large_the_model_is(tmp_path: Path) -> None:
    """A base of 2.1 GB in one tensor beside a small one: the engine takes less than the interpreter and 500 MB."""
    base = base_folder(tmp_path / "base")
    adapter = adapter_folder(base, tmp_path / "adapter")
    tensors = load_file(base / "model.safetensors")
    big = torch.zeros(2**20, 1024, dtype=torch.bfloat16)
    save_file({**tensors, "model.extra.weight": big}, base / "model.safetensors", metadata={"format": "pt"})
    del big
    script = (  # the high-water mark of its own memory: what getrusage tells begins with that of whoever started it
        "import re, sys; from finery_weight_validator.engine import merge; code = merge.main(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    job = tmp_path / "job"
    job.mkdir()
    spec = MergeSpec(model=str(base), adapter=str(adapter)).model_dump(mode="json")
    told = {"task_id": "t", "attempt": 1, "project_id": "p", "spec": spec}
    (job / "job.json").write_text(json.dumps(told))

    ran = subprocess.run([sys.executable, "-c", script, str(job)], capture_output=True, text=True, check=True)

    assert int(ran.stdout.split()[-1]) < 900 * 1024, "kilobytes at the most"
    assert (job / "out" / "model" / "model.safetensors").stat().st_size > 2 * 2**30


@pytest.mark.slow
@pytest.mark.engine
def test_a_real_model_merged_has_the_logits_of_base_and_adapter(tmp_path: Path, smollm2: Path) -> None:
    """SmolLM2 in fp32, every linear layer changed. Measured: the logits differ by 6.0e-5 at most."""
    base = tmp_path / "base"
    shutil.copytree(smollm2, base, ignore=shutil.ignore_patterns("*.safetensors"))
    load(smollm2).save_pretrained(base)
    adapter = adapter_folder(base, tmp_path / "adapter", target_modules="all-linear")

    result, whole = merged(base, adapter, tmp_path / "job")

    assert result.status == "succeeded", result.error
    found = distance(base, adapter, whole)
    print("largest difference of logits", found)
    assert found < 1e-3


def test_allowed_code_of_the_base_goes_along_unrun_and_other_code_is_refused(tmp_path: Path) -> None:
    base, ran = base_folder(tmp_path / "base"), tmp_path / "ran"
    adapter = adapter_folder(base, tmp_path / "adapter")
    code = f"open({str(ran)!r}, 'w').close()\n"
    (base / "modeling_own.py").write_text(code)
    change_json(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})
    allowed = hashlib.sha256(code.encode()).hexdigest()

    refused, nothing = merged(base, adapter, tmp_path / "refused", allowed_code=["0" * 64])
    result, whole = merged(base, adapter, tmp_path / "job", allowed_code=["0" * 64, allowed])

    assert refused.error is not None
    assert (refused.error.code, nothing.exists()) == ("remote_code", False)
    assert result.status == "succeeded", result.error
    assert (whole / "modeling_own.py").read_text() == code
    assert json.loads((whole / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    assert not ran.exists(), "a merge runs nothing of a model folder"
    for folder in (base, whole):
        change_json(folder / "config.json", "auto_map")
    assert distance(base, adapter, whole) < TOLERANCE
