"""Good model folders of many families, tiny and random, as transformers itself writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from folder_builders import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

_SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "phi3": {},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "smollm3": {},
    "granite": {},
    "olmo2": {},
    "exaone4": {},
}


def write_family(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**_SMALL, **FAMILIES[name]})
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("Apache-2.0")
