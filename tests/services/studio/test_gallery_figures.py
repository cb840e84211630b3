"""The shipped gallery holds every published row, and its sizes are those that its configurations imply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finery_contracts.gallery import GalleryEntry
from finery_studio.models.gallery import load_gallery

PUBLISHED = yaml.safe_load(Path(__file__).with_name("reference.yaml").read_text("utf-8"))
GALLERY = load_gallery()
PARTIAL = {"Gemma3-4B", "Gemma3-12B", "Gemma3-27B"}
"""Their published text_config leaves to transformers' defaults what a count would need."""
CURRENT = {
    "Qwen 2.5": {"0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"}, "Qwen 3": {"0.6B", "1.7B", "4B", "8B", "14B", "32B"},
    "Llama 3.2": {"1B", "3B"}, "Llama 3.3": {"70B"}, "Gemma 3": {"270M", "1B", "4B", "12B", "27B"},
    "Mistral": {"7B-v0.3", "Nemo-12B", "Small-24B"}, "Phi": {"3.5-mini", "4", "4-mini"},
    "DeepSeek-R1-Distill": {"Qwen-1.5B", "Qwen-7B", "Qwen-14B", "Qwen-32B", "Llama-8B", "Llama-70B"},
    "SmolLM2": {"135m-instruct", "360m-instruct", "1.7b-instruct"}, "GLM-4-0414": {"GLM-4-9B-0414", "GLM-4-32B-0414"},
}  # fmt: skip


@pytest.mark.parametrize("model_id", PUBLISHED["models"])
def test_every_published_figure_of_a_model_is_in_the_gallery(model_id: str) -> None:
    published, entry = PUBLISHED["models"][model_id], GALLERY.entries[model_id]

    compress = {strategy: tuple(minutes) for strategy, minutes in published.get("compress", {}).items()}
    throughput = {method: tuple(pace) for method, pace in published.get("throughput", {}).items()}
    assert entry.supports.tune == published.get("tune", [])
    assert dict(entry.supports.compress) == compress
    assert dict(entry.throughput) == throughput
    assert (entry.qps, entry.qps_awq, entry.qps_smoothquant) == (
        published["qps"], published.get("qps_awq"), published.get("qps_smoothquant"),
    )  # fmt: skip
    assert entry.max_length == published.get("max_length", PUBLISHED["defaults"]["max_length"])


@pytest.mark.parametrize("published", PUBLISHED["families"], ids=lambda family: family["family"])
def test_every_published_family_is_in_the_gallery(published: dict[str, Any]) -> None:
    found = [entry for entry in GALLERY.entries.values() if entry.family == published["family"]]

    assert found, "a family without models"
    for entry in found:
        assert (entry.type, entry.uses, entry.languages) == (
            published["type"], published["uses"], published["languages"],
        )  # fmt: skip
    if published.get("weights") == "custom-only":
        assert {entry.source for entry in found} == {None}


def test_the_constants_of_the_estimate_are_the_published_ones() -> None:
    assert GALLERY.defaults.model_dump() == PUBLISHED["defaults"]


@pytest.mark.parametrize("family", CURRENT)
def test_current_open_families_are_in_the_gallery(family: str) -> None:
    ids = [entry.id for entry in GALLERY.entries.values() if entry.family == family and entry.quantisation == "none"]

    for size in CURRENT[family]:
        assert any(model_id.endswith(size) for model_id in ids), size


@pytest.mark.parametrize("entry", GALLERY.entries.values(), ids=lambda entry: entry.id)
def test_the_size_of_a_model_is_what_its_published_configuration_implies(entry: GalleryEntry) -> None:
    config = entry.published_config
    assert config is not None
    assert config["model_type"] == entry.architecture
    if entry.id in PARTIAL:
        assert "text_config" in config
        return
    counted = COUNTS[str(config["model_type"])](config)
    assert entry.parameters == pytest.approx(counted, rel=0.01)


# --- the oracle: weights counted from the keys of a configuration, each family by its own layout --------------------


def dense(config: dict[str, Any], *, qkv_bias: bool = False, head_norms: bool = False, layer_norms: int = 2) -> int:
    """Llama's layout: attention with grouped keys, a gated feed-forward, norms, embeddings that may be tied."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim", hidden // heads)
    queries, keys = heads * size, config["num_key_value_heads"] * size
    attention = hidden * (queries + 2 * keys) + queries * hidden
    attention += (queries + 2 * keys if qkv_bias else 0) + (2 * size if head_norms else 0)
    if "num_experts" in config:
        feedforward = config["num_experts"] * (3 * hidden * config["moe_intermediate_size"] + hidden)
    else:
        feedforward = 3 * hidden * config["intermediate_size"]
    layers = config["num_hidden_layers"] * (attention + feedforward + layer_norms * hidden)
    tied = config.get("tie_word_embeddings", config["model_type"] == "gemma3_text")
    return layers + hidden + (1 if tied else 2) * config["vocab_size"] * hidden


def chatglm(config: dict[str, Any]) -> int:
    """ChatGLM2 and later: two groups of keys, biases on query, key and value alone, a fused gate."""
    hidden, inner = config["hidden_size"], config["ffn_hidden_size"]
    wide = hidden + 2 * config["multi_query_group_num"] * config["kv_channels"]
    layer = hidden * wide + wide + hidden * hidden + 3 * hidden * inner + 2 * hidden
    return config["num_layers"] * layer + hidden + 2 * config["padded_vocab_size"] * hidden


def first_qwen(config: dict[str, Any]) -> int:
    """Qwen 1: every head has its keys; ``intermediate_size`` is twice the width of the gate."""
    hidden = config["hidden_size"]
    layer = 4 * hidden * hidden + 3 * hidden + 3 * hidden * (config["intermediate_size"] // 2) + 2 * hidden
    return config["num_hidden_layers"] * layer + hidden + 2 * config["vocab_size"] * hidden


def baichuan(config: dict[str, Any]) -> int:
    """Baichuan: Llama's layout with every head's own keys."""
    return dense({**config, "num_key_value_heads": config["num_attention_heads"]})


COUNTS = {
    "llama": dense,
    "mistral": dense,
    "phi3": dense,
    "qwen2": lambda config: dense(config, qkv_bias=True),
    "qwen3": lambda config: dense(config, head_norms=True),
    "qwen3_moe": lambda config: dense(config, head_norms=True),
    "gemma3_text": lambda config: dense(config, head_norms=True, layer_norms=4),
    "glm": lambda config: dense(config, qkv_bias=config["attention_bias"]),
    "glm4": lambda config: dense(config, qkv_bias=config["attention_bias"], layer_norms=4),
    "chatglm": chatglm,
    "qwen": first_qwen,
    "baichuan": baichuan,
}
