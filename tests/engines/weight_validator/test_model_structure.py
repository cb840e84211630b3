"""The layouts in the table are those that transformers itself builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finery_weight_validator.engine.headers import Tensor
from finery_weight_validator.engine.structure import key_findings, layout_findings

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama with wide heads": {"model_type": "llama", "head_dim": 16},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3 by default": {"model_type": "qwen3"},
    "gemma": {"head_dim": 8},
    "gemma2": {},
    "gemma3_text": {"head_dim": 8},
    "phi3": {},
    "ministral": {"head_dim": 8},
    "glm": {"head_dim": 8},
    "glm without biases": {"model_type": "glm", "head_dim": 8, "attention_bias": False},
    "glm4": {"head_dim": 8},
    "glm4 by default": {"model_type": "glm4"},
    "smollm3": {},
    "granite": {},
    "olmo2": {},
    "exaone4": {},
    "tied llama": {"model_type": "llama", "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_transformers_builds_has_no_findings(name: str) -> None:
    told = {**SMALL, "model_type": name, **FAMILIES[name]}
    if told["model_type"] == "qwen3" and "head_dim" not in FAMILIES[name]:
        told.pop("head_dim", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(told.pop("model_type"), **told))
    config = {**told, "model_type": {**SMALL, "model_type": name, **FAMILIES[name]}["model_type"]}

    tensors = [Tensor(key, "F32", tuple(value.shape), "f", 0, 0) for key, value in model.state_dict().items()]

    assert key_findings(config) == []
    assert layout_findings(config, tensors) == []
