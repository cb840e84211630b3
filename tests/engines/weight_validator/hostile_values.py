"""More hostile folders: values in JSON files, tensors, tokenizers and GGUF headers. Nothing is stored."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from folder_builders import WEIGHTS, change_json
from hostile_folders import Case, Damage, change, header, write

_BITS = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7F800000, "F64": 0x7FF0000000000000, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F}
_SIZES = {"F16": "<H", "BF16": "<H", "F32": "<I", "F64": "<Q", "F8_E5M2": "<B", "F8_E4M3": "<B"}


def configs() -> Iterator[Case]:
    """Wrong types and values, key by key."""
    counts = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "vocab_size", "max_position_embeddings")  # fmt: skip
    for key in counts:
        for value in ("64", -1, 0, 1.5, True, [64], 10**30):
            yield f"config {key} {value!r}", change("config.json", **{key: value})
    others: dict[str, list[Any]] = {
        "model_type": [None, 1, ["llama"]], "tie_word_embeddings": ["false", 1], "rms_norm_eps": ["1e-5", [1]],
        "rope_scaling": ["linear", 8], "architectures": ["Llama", [1]], "hidden_act": [1], "eos_token_id": ["</s>",
        10**9],
        "bos_token_id": [-7, [None]], "attention_bias": ["no"], "quantization_config": ["awq", {"bits": 4}],
        "initializer_range": ["0.02"], "torch_dtype": [16],
    }  # fmt: skip
    for key, values in others.items():
        for value in values:
            yield f"config {key} {value!r}", change("config.json", **{key: value})
    for key in ("hidden_size", "num_attention_heads", "vocab_size", "model_type"):
        yield f"config without {key}", change("config.json", key)
    texts = {
        "NaN": b'{"model_type": "llama", "x": NaN}', "Infinity": b'{"x": -Infinity}', "deep": b"[" * 10**6,
        "UTF-16": "{}".encode("utf-16"), "half a sign": b'{"model_type": "\\ud800"}',
        "BOM": b"\xef\xbb\xbf{}", "two values": b"{} {}", "long number": b'{"x": ' + b"1" * 100_000 + b"}",
        "NUL": b"{}\0",
    }  # fmt: skip
    for name, text in texts.items():
        for file in ("config.json", "generation_config.json"):
            yield f"{file} {name}", write(file, text)
    for theta in (0, -1.0):
        yield f"config turning {theta}", change("config.json", rope_parameters={"rope_theta": theta})
    sampling: dict[str, list[Any]] = {
        "temperature": ["hot", -1, True], "top_p": [5, -0.1], "top_k": [1.5, [5]], "max_length": ["x", 0],
        "num_beams": [10**9, "many"], "eos_token_id": [10**9, -1, [[1]], "</s>"], "bos_token_id": [320],
    }  # fmt: skip
    for key, values in sampling.items():
        for value in values:
            yield f"generation {key} {value!r}", change("generation_config.json", do_sample=True, **{key: value})
    for key in ("temperature", "top_p", "top_k"):
        yield f"sampling {key} alone", change("generation_config.json", **{key: 1})
    yield "another JSON file", write("added_tokens.json", b"{,}")
    yield "tokenizer config a list", write("tokenizer_config.json", b"[" * 10**5)


def tensors() -> Iterator[Case]:
    """Values that no weight may have, in every number format, first, last and in the middle."""
    for dtype in _BITS:
        for place in ("first", "last", "middle"):
            yield f"not finite {dtype} {place}", _poison(dtype, place)
    for dtype in ("I16", "U16"):
        yield f"whole numbers {dtype}", header(lambda h, dtype=dtype: h["model.norm.weight"].update(dtype=dtype))
    for dtype in ("I8", "U8", "BOOL"):
        told = {"dtype": dtype, "shape": [64, 128]}
        name = "model.layers.0.self_attn.q_proj.weight"
        yield f"whole numbers {dtype}", header(lambda h, told=told, name=name: h[name].update(told))


def tokenizers() -> Iterator[Case]:
    """tokenizer.json that does not end, does not fit, or is none."""
    yield "tokenizer none", lambda m: (m / "tokenizer.json").unlink()
    yield "tokenizer empty object", write("tokenizer.json", b"{}")
    yield "tokenizer deep", write("tokenizer.json", b'{"model":' * 50_000)
    yield "tokenizer no UTF-8", write("tokenizer.json", b'{"\xff": 1}')
    yield "tokenizer unknown model", _tokenizer(lambda t: t["model"].update(type="Evil"))
    yield "tokenizer ids negative", _tokenizer(lambda t: t["model"].update(vocab={"a": -1}))
    yield "tokenizer ids far", _tokenizer(lambda t: t["model"]["vocab"].update(far=2**31))
    yield "tokenizer merges broken", _tokenizer(lambda t: t["model"].update(merges=["a"]))
    yield "tokenizer added far", _tokenizer(lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 10**6}))
    doubling = {"type": "Replace", "pattern": {"Regex": "(?s)."}, "content": "aaaaaaaaaa"}
    yield (
        "tokenizer that grows",
        _tokenizer(lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [doubling] * 12})),
    )
    slow = {
        "type": "Split",
        "pattern": {"Regex": "(([a-z ])+.)+[A-Z]([a-z ])+0$"},
        "behavior": "Isolated",
        "invert": False,
    }
    nothing = {"type": "Replace", "pattern": {"Regex": "(?s).*"}, "content": ""}
    yield "tokenizer that forgets all", _tokenizer(lambda t: t.update(normalizer=nothing))
    yield (
        "tokenizer with a slow pattern",
        _tokenizer(
            lambda t: t.update(
                normalizer={"type": "Prepend", "prepend": "a" * 40_000},
                pre_tokenizer={"type": "Sequence", "pretokenizers": [slow] * 200},
            )
        ),
    )


def ggufs() -> Iterator[Case]:
    """Lies of a GGUF header, beside weights that are sound."""
    sound = gguf_bytes()
    cuts = {"magic": b"GGUX" + sound[4:], "version": sound[:4] + struct.pack("<I", 99) + sound[8:], "empty": b"",
            "cut early": sound[:20], "cut in keys": sound[:40], "cut in data": sound[:-64], "tail": sound + bytes(9000),
            "big endian": sound[:4] + struct.pack(">I", 3) + sound[8:]}  # fmt: skip
    for name, raw in cuts.items():
        yield f"gguf {name}", write("model.gguf", raw)
    lies: dict[str, dict[str, Any]] = {
        "tensors 2^63": {"tensors": 2**63}, "keys 2^63": {"keys": 2**63}, "no tensors": {"tensors": 0},
        "more tensors": {"tensors": 3}, "more keys": {"keys": 7}, "name length": {"name_length": 2**62},
        "dimensions 0": {"shape": ()}, "dimensions 9": {"shape": (1,) * 9}, "shape overflow": {"shape": (2**62, 8)},
        "shape zero": {"shape": (0, 4)}, "type 999": {"kind": 999}, "type removed": {"kind": 4},
        "offset odd": {"offset": 7}, "offset far": {"offset": 2**40}, "block": {"kind": 2, "shape": (31, 1)},
        "alignment 0": {"alignment": 0}, "alignment 7": {"alignment": 7}, "alignment 2^31": {"alignment": 2**31},
        "key twice": {"twice": True}, "no architecture": {"architecture": None}, "value kind": {"value_kind": 77},
        "list of lists": {"nested": 40}, "list length": {"list_length": 2**60}, "texts in a list": {"texts": 2**50},
        "no UTF-8": {"architecture": b"\xff\xfe"},
    }  # fmt: skip
    for name, lie in lies.items():
        yield f"gguf {name}", write("model.gguf", gguf_bytes(**lie))


def gguf_bytes(**lie: Any) -> bytes:
    """A file of two keys and one tensor, written by the specification, with lies where told."""

    def text(value: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(value) if length is None else length) + value

    architecture = lie.get("architecture", b"llama")
    pairs = [] if architecture is None else [text(b"general.architecture") + struct.pack("<I", 8) + text(architecture)]
    pairs.append(text(b"general.alignment") + struct.pack("<II", 4, lie.get("alignment", 32)))
    if lie.get("twice"):
        pairs.append(pairs[-1])
    if "value_kind" in lie:
        pairs.append(text(b"x") + struct.pack("<I", lie["value_kind"]))
    if "nested" in lie:
        pairs.append(text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * lie["nested"])
    if "list_length" in lie:
        pairs.append(text(b"x") + struct.pack("<IIQ", 9, 4, lie["list_length"]))
    if "texts" in lie:
        pairs.append(text(b"x") + struct.pack("<IIQ", 9, 8, lie["texts"]))
    shape = lie.get("shape", (16, 2))
    info = text(b"output_norm.weight", lie.get("name_length")) + struct.pack("<I", len(shape))
    info += b"".join(struct.pack("<Q", side) for side in shape)
    info += struct.pack("<IQ", lie.get("kind", 0), lie.get("offset", 0))
    head = b"GGUF" + struct.pack("<IQQ", 3, lie.get("tensors", 1), lie.get("keys", len(pairs))) + b"".join(pairs) + info
    return head + bytes(-len(head) % 32) + bytes(128)


def _poison(dtype: str, place: str) -> Damage:
    """The norm's values in that format, one of them not finite; the header agrees with the bytes."""

    def spoil(model: Path) -> None:
        raw = (model / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
        sides = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name[0] != "_"}
        values = [0] * 64
        values[{"first": 0, "last": 63, "middle": 31}[place]] = _BITS[dtype]
        sides["model.norm.weight"] = b"".join(struct.pack(_SIZES[dtype], value) for value in values)
        header["model.norm.weight"]["dtype"] = dtype
        begin = 0
        for name, side in sides.items():
            header[name]["data_offsets"] = [begin, begin + len(side)]
            begin += len(side)
        text = json.dumps(header).encode()
        (model / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(sides.values()))

    return spoil


def _tokenizer(spoil: Callable[[dict[str, Any]], object]) -> Damage:
    def apply(model: Path) -> None:
        content = json.loads((model / "tokenizer.json").read_text("utf-8"))
        spoil(content)
        change_json(model / "tokenizer.json", **content)

    return apply
