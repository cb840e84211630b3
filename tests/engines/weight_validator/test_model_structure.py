"""The layouts in the table are those that transformers itself builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finery_weight_validator.engine.headers import Tensor
from finery_weight_validator.engine.structure import key_findings, layout_findings, quantisation_findings

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


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}


@pytest.mark.parametrize(("spoil", "code"), [
    (lambda held: None, None),
    (lambda held: held.pop("model.layers.1.mlp.up_proj.scales"), "tensor_missing"),
    (lambda held: held.pop("model.layers.0.self_attn.q_proj.qweight"), "tensor_missing"),
    (lambda held: held.update({"model.layers.0.self_attn.q_proj.weight": (32, 32)}), "tensor_surplus"),
    (lambda held: held.update({"model.layers.0.mlp.down_proj.qzeros": (2, 4)}), "tensor_shape_wrong"),
])  # fmt: skip
def test_weights_after_awq_are_compared_by_their_own_layout(spoil: Callable[[dict], object], code: str | None) -> None:
    config = {"model_type": "qwen2", **SMALL, "quantization_config": AWQ}
    held: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (50, 32), "lm_head.weight": (50, 32),
                                        "model.norm.weight": (32,)}  # fmt: skip
    for layer in ("model.layers.0", "model.layers.1"):
        held |= {f"{layer}.{norm}.weight": (32,) for norm in ("input_layernorm", "post_attention_layernorm")}
        held |= {f"{layer}.self_attn.{name}_proj.bias": (size,) for name, size in (("q", 32), ("k", 16), ("v", 16))}
        parts = {"self_attn.q": (32, 32), "self_attn.k": (32, 16), "self_attn.v": (32, 16), "self_attn.o": (32, 32),
                 "mlp.gate": (32, 48), "mlp.up": (32, 48), "mlp.down": (48, 32)}  # fmt: skip
        for name, (inputs, outputs) in parts.items():
            held[f"{layer}.{name}_proj.qweight"] = (inputs, outputs // 8)
            held[f"{layer}.{name}_proj.qzeros"] = (inputs // 16, outputs // 8)
            held[f"{layer}.{name}_proj.scales"] = (inputs // 16, outputs)
    spoil(held)

    found = layout_findings(config, [Tensor(name, "F16", shape, "f", 0, 0) for name, shape in held.items()])

    assert [finding.code for finding in found] == ([code] if code else [])


def test_a_quantisation_that_is_only_said_hides_no_other_fault() -> None:
    config = {"model_type": "qwen2", **SMALL, "quantization_config": AWQ}
    weights = [Tensor("model.layers.1.mlp.up_proj.weight", "BF16", (48, 16), "f", 0, 0)]

    found = layout_findings(config, weights)

    assert "tensor_shape_wrong" in [finding.code for finding in found]
    assert quantisation_findings(config, weights)[0].code == "quantization_config_unexpected"
