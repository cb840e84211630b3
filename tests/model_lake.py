"""Builders: a small whole llama folder, written by hand, and a real object store that holds it."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from moto.s3 import s3_backends
from moto.server import ThreadedMotoServer

from finery_contracts.sources import Endpoint, Limits, Origin, S3Source

KEYS = {"access_key": "AKIAEXAMPLE", "secret_key": "s3cr3t-of-the-lake"}
WEIGHTS = "model.safetensors"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, INNER, LAYERS, ROWS = 32, 64, 2, 320
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": ROWS, "hidden_size": HIDDEN,
    "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "tie_word_embeddings": True, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip


def model_files() -> dict[str, bytes]:
    """SmolLM's shape at a thousandth of its size: name → content."""
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[1], "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[2], "model_max_length": 256, "chat_template": TEMPLATE,
    }  # fmt: skip
    texts = {
        "config.json": CONFIG,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": tokenizer,
    }
    files = {name: json.dumps(content).encode() for name, content in texts.items()}
    return {**files, WEIGHTS: _weights(), "LICENSE": b"Apache-2.0"}


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE without a single merge: every byte is a token."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(shown, map(chr, shown), strict=True))
    letters |= {byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in letters)}
    vocabulary = {name: n for n, name in enumerate([*SPECIAL, *(letters[byte] for byte in range(256))])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level,
        "added_tokens": [{"id": n, "content": name, **added} for n, name in enumerate(SPECIAL)],
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []},
    }  # fmt: skip


def _weights() -> bytes:
    """Small bf16 numbers of either sign, by a seed."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        inside = {
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
            "self_attn.v_proj": (HIDDEN // 2, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
            "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chance, data = random.Random(7), bytearray()
    for name, shape in shapes.items():
        begin, count = len(data), shape[0] * (shape[1] if len(shape) > 1 else 1)
        for _ in range(count):
            data += struct.pack("<f", chance.uniform(-0.1, 0.1))[2:]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


@dataclass(frozen=True)
class Lake:
    """A bucket named ``lake``."""

    url: str
    client: Any

    def put(self, prefix: str, files: Mapping[str, bytes]) -> str:
        """Objects below the prefix; returns its URL."""
        for name, content in files.items():
            self.client.put_object(Bucket="lake", Key=f"{prefix}/{name}", Body=content)
        return f"s3://lake/{prefix}"

    def origin(self, place: str, **limits: Any) -> Origin:
        """As a claim holds it."""
        told = Limits(**{"allow_networks": ["127.0.0.0/8"], "stall_s": 5, "timeout_s": 60, **limits})
        return Origin(source=S3Source(url=place), endpoint=Endpoint(kind="s3", url=self.url), limits=told, secret=KEYS)


@contextlib.contextmanager
def a_lake() -> Iterator[Lake]:
    """A real server of the S3 protocol on loopback; all such servers of a process share what is in them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    s3_backends.reset()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=KEYS["access_key"],
        aws_secret_access_key=KEYS["secret_key"],
    )  # fmt: skip
    client.create_bucket(Bucket="lake")
    try:
        yield Lake(url, client)
    finally:
        client.close()
        server.stop()
        s3_backends.reset()
