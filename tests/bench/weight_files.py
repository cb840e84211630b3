"""Run by the engines' environment: ``python -m tests.bench.weight_files headers|full``; prints the values as JSON."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import numpy as np

from finery_contracts.jobs import ValidateSpec
from finery_weight_validator.engine.headers import read_tensors
from finery_weight_validator.engine.values import scan
from finery_weight_validator.engine.verdict import judge_headers

HEADER_TURNS, FULL_TURNS, FULL_BYTES = 50, 7, 512 * 2**20
LAYERS, HIDDEN, INNER, ROWS, KEYS = 53, 5120, 27648, 152_064, 1024


def main(what: str) -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as room:
        values = _headers(Path(room)) if what == "headers" else _full(Path(room) / "model.safetensors")
    print(json.dumps(values))
    return 0


def _headers(folder: Path) -> list[float]:
    """A model of 25 billion values and 639 tensors, laid out like Qwen 2.5."""
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": HIDDEN, "vocab_size": ROWS,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 40, "num_key_value_heads": 8,
        "tie_word_embeddings": False, "max_position_embeddings": 32768,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "LICENSE").write_text("Apache-2.0")
    size = _write(folder / "model.safetensors", _shapes())
    assert size > 50 * 10**9
    spec = ValidateSpec(model=str(folder), depth="headers")
    values = []
    for _ in range(HEADER_TURNS):
        began = time.perf_counter()
        verdict = judge_headers(spec)
        values.append((time.perf_counter() - began) * 1e3)
        assert [finding.code for finding in verdict.findings] == ["weights_hollow"], verdict.findings
    return values


def _full(path: Path) -> list[float]:
    shapes = {f"layers.{n}.weight": (FULL_BYTES // 2 // 16,) for n in range(16)}
    _write(path, shapes)
    with path.open("r+b") as file:
        begin = 8 + struct.unpack("<Q", file.read(8))[0]
        file.seek(begin)
        chance = np.random.default_rng(0)
        for _ in range(16):
            values = chance.integers(0, 2**16, FULL_BYTES // 2 // 16, dtype=np.uint16)
            file.write((values & np.uint16(0xBFFF)).tobytes())  # no exponent of all ones: finite in bf16
    tensors, findings = read_tensors(path)
    assert not findings
    shares = []
    for _ in range(FULL_TURNS):
        began = time.perf_counter()
        with path.open("rb") as file:
            alone = hashlib.file_digest(file, "sha256").hexdigest()
        middle = time.perf_counter()
        digest, faults = scan(path, tensors, tell=lambda size: None)
        shares.append((middle - began) / (time.perf_counter() - middle))
        assert (digest, faults) == (alone, [])
    return shares


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (ROWS, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (ROWS, HIDDEN),
    }  # fmt: skip
    for layer in range(LAYERS):
        parts = {
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN),
            "self_attn.v_proj": (KEYS, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
            "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
        biases = {"q_proj": HIDDEN, "k_proj": KEYS, "v_proj": KEYS}
        shapes |= {f"model.layers.{layer}.self_attn.{name}.bias": (width,) for name, width in biases.items()}
    return shapes


def _write(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A sound file of bf16 whose data is a hole; its size in bytes."""
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    return 8 + len(text) + place


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
