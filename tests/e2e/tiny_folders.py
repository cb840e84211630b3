"""Model folders that need no engine package to be made: a llama of one layer, and one whose tokenizer brings code."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from array import array
from math import prod
from pathlib import Path

HIDDEN, INNER, HEAD = 16, 32, 8
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GLM_TOKENIZER = '''\
from transformers import PreTrainedTokenizerFast


class ChatGLMTokenizer(PreTrainedTokenizerFast):
    """Pads on the left whatever it is told, as it did before there was another side."""

    def _pad(
            self,
            encoded_inputs,
            max_length=None,
            padding_strategy=None,
            pad_to_multiple_of=None,
            return_attention_mask=None,
    ):
        for name, value in (("input_ids", self.pad_token_id), ("attention_mask", 0)):
            if name in encoded_inputs and max_length is not None:
                missing = max_length - len(encoded_inputs[name])
                encoded_inputs[name] = [value] * missing + list(encoded_inputs[name])
        return encoded_inputs
'''
QWEN_CONFIG = """\
from transformers import LlamaConfig


class QWenConfig(LlamaConfig):
    model_type = "qwen"
"""
QWEN_MODEL = """\
import torch
from transformers import LlamaForCausalLM

from .configuration_qwen import QWenConfig

SUPPORT_CUDA = torch.cuda.is_available()
SUPPORT_BF16 = SUPPORT_CUDA and torch.cuda.is_bf16_supported()
SUPPORT_FP16 = SUPPORT_CUDA and torch.cuda.get_device_capability(0)[0] >= 7


class QWenLMHeadModel(LlamaForCausalLM):
    config_class = QWenConfig

    def __init__(self, config):
        super().__init__(config)
        config.bf16 = SUPPORT_BF16
"""
ALLOWED = [hashlib.sha256(text.encode()).hexdigest() for text in (GLM_TOKENIZER, QWEN_CONFIG, QWEN_MODEL)]


def tiny_llama(folder: Path, **generation: object) -> Path:
    """Random weights of about 30 kB; ``generation`` is added to its generation_config.json."""
    folder.mkdir(parents=True)
    vocabulary = {text: number for number, text in enumerate([*SPECIAL, *_byte_signs()])}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": HEAD, "max_position_embeddings": 256, "tie_word_embeddings": True,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "torch_dtype": "float32", **ids,
    }  # fmt: skip
    write(folder / "config.json", config)
    write(folder / "generation_config.json", {**ids, **generation})
    _write_tokenizer(folder, vocabulary)
    _write_weights(folder / "model.safetensors", rows=len(vocabulary))
    (folder / "LICENSE").write_text("Apache-2.0")
    return folder


def tiny_glm(folder: Path) -> Path:
    """The same, with a tokenizer of its own as ChatGLM3-6B and GLM-4-9B bring one."""
    tiny_llama(folder)
    (folder / "tokenization_chatglm.py").write_text(GLM_TOKENIZER)
    path = folder / "tokenizer_config.json"
    own = {"AutoTokenizer": [None, "tokenization_chatglm.ChatGLMTokenizer"]}
    write(path, {**json.loads(path.read_text()), "tokenizer_class": "ChatGLMTokenizer", "auto_map": own})
    return folder


def tiny_qwen(folder: Path) -> Path:
    """The same, with code for its configuration and network as Qwen-7B, 14B and 72B bring it."""
    tiny_llama(folder)
    (folder / "configuration_qwen.py").write_text(QWEN_CONFIG)
    (folder / "modeling_qwen.py").write_text(QWEN_MODEL)
    own = {
        "AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    }  # fmt: skip
    path = folder / "config.json"
    told = {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "auto_map": own}
    write(path, {**json.loads(path.read_text()), **told})
    return folder


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _byte_signs() -> list[str]:
    """The sign for each byte in a byte-level vocabulary: itself where it prints, one above 255 elsewhere."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in itself else chr(next(others)) for byte in range(256)]


def _write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    added = [
        {"id": vocabulary[text], "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for text in SPECIAL
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write(
        folder / "tokenizer.json",
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                      "merges": []},
        },
    )  # fmt: skip
    write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[1], "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0], "model_max_length": 256, "chat_template": TEMPLATE,
        },
    )  # fmt: skip


def _write_weights(path: Path, *, rows: int) -> None:
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": [rows, HIDDEN], "model.norm.weight": [HIDDEN],
        f"{layer}.input_layernorm.weight": [HIDDEN], f"{layer}.post_attention_layernorm.weight": [HIDDEN],
        f"{layer}.self_attn.q_proj.weight": [2 * HEAD, HIDDEN], f"{layer}.self_attn.k_proj.weight": [HEAD, HIDDEN],
        f"{layer}.self_attn.v_proj.weight": [HEAD, HIDDEN], f"{layer}.self_attn.o_proj.weight": [HIDDEN, 2 * HEAD],
        f"{layer}.mlp.gate_proj.weight": [INNER, HIDDEN], f"{layer}.mlp.up_proj.weight": [INNER, HIDDEN],
        f"{layer}.mlp.down_proj.weight": [HIDDEN, INNER],
    }  # fmt: skip
    chance, data, header = random.Random(0), b"", dict[str, object]()
    for name, shape in shapes.items():
        values = array("f", (chance.gauss(0, 0.1) for _ in range(prod(shape)))).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
