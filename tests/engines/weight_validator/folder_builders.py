"""Builders of model folders and of the damage they suffer, and calls that run the engines on them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finery_contracts.jobs import EngineJob, EngineSpec, JobResult, ValidateSpec
from finery_weight_validator.engine import check

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEIGHTS = "model.safetensors"


def write_healthy_folder(folder: Path) -> None:
    """Two layers, hidden size 64, tied embeddings, bf16."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("Apache-2.0")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the capital of France is Paris"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        chat_template=TEMPLATE, model_max_length=256,
    )  # fmt: skip


def run_engine(main: Callable[[list[str]], int], work: Path, spec: EngineSpec) -> tuple[int, JobResult]:
    work.mkdir(parents=True)
    job = EngineJob(task_id="task_1", attempt=1, project_id="proj_1", spec=spec)
    (work / "job.json").write_text(job.model_dump_json())
    status = main([str(work)])
    return status, JobResult.model_validate_json((work / "result.json").read_bytes())


def validate(model: Path, work: Path, **spec: Any) -> tuple[int, JobResult, dict[str, Any]]:
    """Exit status, result, and the report; without generation unless asked for."""
    status, result = run_engine(check.main, work, ValidateSpec(model=str(model), **{"generate": False, **spec}))
    return status, result, json.loads((work / "out" / "report.json").read_text())


def codes(report: dict[str, Any], *severities: str) -> list[str]:
    return [finding["code"] for finding in report["findings"] if finding["severity"] in (severities or ("error",))]


def change_json(path: Path, *remove: str, **change: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    for key in remove:
        content.pop(key, None)
    path.write_text(json.dumps({**content, **change}), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Load, change, save: the header stays sound."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def change_header(path: Path, change: Callable[[dict[str, Any]], Any], *, tail: bytes = b"") -> None:
    """Change the JSON header and leave the data as it is."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    changed = change(header)
    text = json.dumps(header if changed is None else changed).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :] + tail)


def shard(folder: Path) -> Path:
    """Split the weights into two files with an index; returns the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    places = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index
