"""Builders of hostile and broken model folders: each takes a copy of a healthy folder and spoils it. Nothing of it
is stored."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from folder_builders import WEIGHTS, change_header, change_json

Damage = Callable[[Path], object]
Case = tuple[str, Damage]


class _Calls:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.called


def payloads(canary: Path) -> dict[str, bytes]:
    """Files that would make the canary when they are opened by what usually opens them."""
    touch = f"touch {canary}"
    system = {f"protocol {n}": pickle.dumps(_Calls(os.system, touch), protocol=n) for n in range(6)}
    python = f"open({str(canary)!r}, 'w')"
    zipped, npy = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", system["protocol 2"])
        archive.writestr("archive/version", "3\n")
    np.save(npy, np.array([_Calls(os.system, touch)], dtype=object), allow_pickle=True)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    return {
        **system,
        "eval": pickle.dumps(_Calls(eval, python), protocol=4),
        "popen": pickle.dumps(_Calls(subprocess.Popen, ["touch", str(canary)]), protocol=3),
        "torch zip": zipped.getvalue(),
        "torch legacy": magic + system["protocol 2"],
        "object array": npy.getvalue(),
    }


PICKLE_NAMES = (
    "pytorch_model.bin", "model.pt", "best.pth", "last.ckpt", "x.pkl", "training_args.bin", "Model.BIN", WEIGHTS,
    "extra.safetensors", "tokenizer.model", "vocab.txt", "special_tokens_map.json", "model.gguf", "README.md",
    "LICENSE",
    "no_ending", "data.npy", "below/further/x.dat",
)  # fmt: skip


def pickles(canary: Path) -> Iterator[Case]:
    """Every payload under a name that fits it, and six of them under every name."""
    held = payloads(canary)
    chosen = ("protocol 0", "protocol 2", "protocol 4", "eval", "torch zip", "torch legacy")
    for kind in chosen:
        for name in PICKLE_NAMES:
            yield f"pickle {kind} as {name}", write(name, held[kind])
    for kind in held.keys() - set(chosen):
        yield f"pickle {kind}", write("pytorch_model.bin", held[kind])
    call = _Calls(os.system, f"touch {canary}")
    yield "pickle that goes on after its call", write("LICENSE", pickle.dumps([call, "x" * 200_000], protocol=0))
    yield "pickle with a long text first", write("README.md", pickle.dumps(["x" * 70_000, call], protocol=1))
    yield "pickle of megabytes", write("NOTICE", pickle.dumps(["x" * 600, call, "x" * 5_000_000], protocol=0))
    yield "pickle that breaks off", write("notes.dat", pickle.dumps(call, protocol=0).removesuffix(b"."))


def archives(canary: Path) -> Iterator[Case]:
    """Packed things, honest about it or not."""
    held = payloads(canary)["protocol 2"]

    def packed(name: str, size: int = 1, inner: str = "x.pkl") -> bytes:
        room = io.BytesIO()
        with zipfile.ZipFile(room, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(inner, held if size == 1 else bytes(size))
        return room.getvalue()

    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w") as tar:
        entry = tarfile.TarInfo("../../outside")
        entry.size = len(held)
        tar.addfile(entry, io.BytesIO(held))
    for name in ("code.zip", "weights.tar.gz", "a.whl", "notes.txt", "model.7z", "x.zst"):
        yield f"archive as {name}", write(name, packed(name))
    yield "archive bomb", write("bomb.zip", packed("bomb", size=50_000_000))
    yield "archive in an archive", write("outer.json", packed("outer", inner="inner.zip"))
    yield "archive tar", write("data.txt", room.getvalue())
    yield "archive gzip", write("tokenizer.model", b"\x1f\x8b\x08" + bytes(30))
    yield "archive 7z", write("vocab.txt", b"7z\xbc\xaf\x27\x1c" + bytes(30))
    yield "archive lzma", write("w.lzma", bytes(30))
    yield "archive cabinet", write("vocab.txt", b"MSCF" + bytes(40))
    yield "archive of compress", write("merges.txt", b"\x1f\x9d\x90" + bytes(30))
    yield "archive inside a tensor", lambda m: _zip_in_tensor(m, packed("polyglot"))
    yield "archive behind a text", write("NOTICE", b"plain words\n" + packed("appended"))


def headers() -> Iterator[Case]:
    """Lies of a safetensors header."""
    for name, length in {
        "exabyte": 2**60,
        "all ones": 2**64 - 1,
        "just over": 100 * 2**20 + 1,
        "file size": 10**6,
    }.items():
        yield f"header length {name}", write(WEIGHTS, struct.pack("<Q", length) + b"{}")
    texts = {
        "deep": b'{"a":' + b"[" * 200_000, "deep objects": b'{"a":' * 100_000, "list": b"[]", "text": b'"x"',
        "empty": b"",
        "no JSON": b"{]}", "NaN": b'{"a":NaN}', "no UTF-8": b'{"\xff":1}', "null": b"null", "no tensors": b"{}",
        "twice": b'{"a":1,"a":2}', "only metadata": b'{"__metadata__":{}}', "entry a list": b'{"a":[]}',
        "entry null": b'{"a":null}', "entry text": b'{"a":"dtype"}', "huge number": b'{"a":' + b"9" * 10_000 + b"}",
        "many tensors": ("{" + ",".join(f'"{n}":0' for n in range(60_000)) + "}").encode(),
    }  # fmt: skip
    for name, text in texts.items():
        yield f"header {name}", write(WEIGHTS, struct.pack("<Q", len(text)) + text)
    entries: dict[str, dict[str, Any]] = {
        "negative shape": {"shape": [-1, 4]}, "float shape": {"shape": [2.0]}, "truth shape": {"shape": [True]},
        "text shape": {"shape": "2"}, "no shape": {"shape": None}, "deep shape": {"shape": [[2]]},
        "overflowing shape": {"shape": [2**31, 2**31, 2**31]}, "wrapping shape": {"shape": [2**62, 4]},
        "giant side": {"shape": [2**70]}, "many sides": {"shape": [1] * 100_000}, "zero side": {"shape": [0]},
        "unknown dtype": {"dtype": "F128"}, "dtype number": {"dtype": 16}, "dtype list": {"dtype": ["F16"]},
        "wider dtype": {"dtype": "F64"}, "no dtype": {"dtype": None}, "negative offset": {"data_offsets": [-4, 0]},
        "turned offsets": {"data_offsets": [100, 0]}, "far offset": {"data_offsets": [0, 2**60]},
        "one offset": {"data_offsets": [0]}, "three offsets": {"data_offsets": [0, 2, 4]},
        "text offsets": {"data_offsets": "0-2"}, "float offsets": {"data_offsets": [0.0, 2.0]},
        "overlap": {"data_offsets": [0, 128]}, "no offsets": {"data_offsets": None},
    }  # fmt: skip
    for name, change in entries.items():
        yield f"header {name}", header(lambda h, change=change: h["model.norm.weight"].update(change))
    yield "header trailing bytes", header(lambda h: None, tail=b"more")
    yield "header gap", header(lambda h: h.pop("model.norm.weight") and None)
    yield "header two names for one place", header(lambda h: h.update(second=dict(h["model.norm.weight"])))
    yield "header lying shape", header(lambda h: h["model.norm.weight"].update(shape=[8, 8]))
    yield "header lying name", header(lambda h: h.update({"model.norm.wieght": h.pop("model.norm.weight")}))
    for name, about in {"number": {"a": 1}, "list": ["a"], "object": {"a": {"b": "c"}}}.items():
        yield f"header metadata {name}", header(lambda h, about=about: h.update(__metadata__=about))
    yield "header control signs", header(lambda h: h.update({"a\x1b[2J\n\x00": h.pop("model.norm.weight")}))


def files(canary: Path) -> Iterator[Case]:
    """Links, special files, code, cut and empty files."""
    yield "link absolute", lambda m: (m / "a.txt").symlink_to("/etc/passwd")
    yield "link relative", lambda m: (m / "a.txt").symlink_to("../../x")
    yield "link to itself", lambda m: (m / "a.txt").symlink_to("a.txt")
    yield "link folder", lambda m: (m / "sub").symlink_to("/proc", target_is_directory=True)
    yield "link to a device", lambda m: (m / "a.safetensors").symlink_to("/dev/zero")
    yield "link of the weights", lambda m: ((m / WEIGHTS).unlink(), (m / WEIGHTS).symlink_to("/dev/urandom"))
    yield "link of the config", lambda m: ((m / "config.json").unlink(), (m / "config.json").symlink_to("/etc/passwd"))
    yield "hard link outside", _hard_link
    yield "pipe", lambda m: os.mkfifo(m / "vocab.json")
    yield "pipe as config", lambda m: ((m / "config.json").unlink(), os.mkfifo(m / "config.json"))
    yield "pipe as weights", lambda m: ((m / WEIGHTS).unlink(), os.mkfifo(m / WEIGHTS))
    yield "socket", _socket
    yield "folder as config", lambda m: ((m / "config.json").unlink(), (m / "config.json").mkdir())
    yield "folders without end", lambda m: (m / "/".join("d" * 12)[:24]).mkdir(parents=True)
    code = f"open({str(canary)!r}, 'w')\n".encode()
    for name in ("modeling_x.py", "setup.PY", "a.pyc", "lib.so", "run.sh", "deep/er/x.py", "m\n.py", "a.bat", "x.pyz"):
        yield f"code {name!r}", write(name, code)
    yield "code name no UTF-8", lambda m: Path(os.fsdecode(os.fsencode(m) + b"/\xff\xfe.py")).write_bytes(code)
    yield "code ELF as text", write("merges.txt", b"\x7fELF" + bytes(60))
    yield "code script as licence", write("LICENSE", b"#!/bin/sh\ntouch x\n")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        yield f"code asked in {name}", change(name, auto_map={"AutoModelForCausalLM": "modeling_x.M"})
        yield f"code asked elsewhere in {name}", change(name, auto_map={"AutoConfig": "evil/repo--x.M"})
    yield "code Windows program", write("README.md", b"MZ\x90\0" + bytes(60))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        yield f"code asked in {name}", write(name, b'{"auto_map": {"AutoImageProcessor": "evil/repo--x.M"}}')
    yield "adapter on other weights", write("adapter_config.json", b'{"base_model_name_or_path": "/srv/elsewhere"}')
    yield "code custom generate", change("generation_config.json", custom_generate="evil/repo")
    for name in ("config.json", WEIGHTS, "tokenizer.json", "generation_config.json"):
        yield f"empty {name}", write(name, b"")
        yield f"cut {name}", lambda m, name=name: os.truncate(m / name, (m / name).stat().st_size // 2)
    yield "no config", lambda m: (m / "config.json").unlink()
    yield "no weights", lambda m: (m / WEIGHTS).unlink()
    yield "nothing", lambda m: [path.unlink() for path in m.iterdir()]
    yield "hollow", _hollow
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    yield "pointer as weights", write(WEIGHTS, pointer)
    yield "pointer as tokenizer", write("tokenizer.json", pointer)
    yield "wrong checksum", write("SHA256SUMS", ("0" * 64 + f"  {WEIGHTS}\n").encode())
    yield (
        "wrong checksum of a download",
        write(f".cache/huggingface/download/{WEIGHTS}.metadata", b"abc\n" + b"1" * 64 + b"\n1.0\n"),
    )


def indexes() -> Iterator[Case]:
    """Lies of an index of parts."""
    part = "model-00001-of-00001.safetensors"
    files: dict[str, Any] = {
        "above": f"../{part}", "absolute": "/etc/passwd", "absolute weights": f"/tmp/{part}", "device": "/dev/zero",
        "here": f"./{part}", "folder": f"sub/{part}", "nul": f"{part}\0.txt", "newline": f"{part}\n", "empty": "",
        "number": 1, "list": [part], "object": {"a": part}, "null": None, "truth": True, "gone": "model-2.safetensors",
        "no weights": "config.json", "long": "x" * 10_000 + ".safetensors", "backslash": f"..\\{part}",
    }  # fmt: skip
    for name, file in files.items():
        yield (
            f"index {name}",
            lambda m, file=file: _with_index(m, part, lambda places: {**places, "model.norm.weight": file}),
        )
    wholes: dict[str, Any] = {
        "no map": {"metadata": {}}, "map a list": {"metadata": {}, "weight_map": []}, "map null": {"weight_map": None},
        "map empty": {"metadata": {}, "weight_map": {}}, "whole a list": [], "whole a text": "x",
        "metadata a list": None,
    }  # fmt: skip
    for name, whole in wholes.items():
        yield f"index {name}", lambda m, whole=whole: _with_index(m, part, None, whole=whole)
    yield "index deep", lambda m: (_with_index(m, part, None), write(_INDEX, b'{"weight_map":' + b"{" * 10**5)(m))
    yield "index cut", lambda m: (_with_index(m, part, None), os.truncate(m / _INDEX, 60))
    yield "index one missing", lambda m: _with_index(m, part, lambda places: dict(list(places.items())[1:]))
    yield "index one more", lambda m: _with_index(m, part, lambda places: {**places, "extra": part})
    yield "index missing", lambda m: (m / WEIGHTS).rename(m / part)


_INDEX = "model.safetensors.index.json"


def write(name: str, content: bytes) -> Damage:
    def spoil(model: Path) -> None:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)

    return spoil


def change(name: str, *gone: str, **values: object) -> Damage:
    return lambda model: change_json(model / name, *gone, **values)


def header(spoil: Callable[[dict[str, Any]], object], tail: bytes = b"") -> Damage:
    return lambda model: change_header(model / WEIGHTS, spoil, tail=tail)


def _with_index(model: Path, part: str, spoil: Callable[[dict[str, Any]], Any] | None, whole: Any = None) -> None:
    raw = (model / WEIGHTS).read_bytes()
    names = [name for name in json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]) if name != "__metadata__"]
    (model / WEIGHTS).rename(model / part)
    places: dict[str, Any] = dict.fromkeys(names, part)
    places = spoil(places) if spoil else places
    index = whole if whole is not None else {"metadata": {} if spoil else [], "weight_map": places}
    (model / _INDEX).write_text(json.dumps(index))


def _zip_in_tensor(model: Path, packed: bytes) -> None:
    entry = {"x": {"dtype": "U8", "shape": [len(packed)], "data_offsets": [0, len(packed)]}}
    text = json.dumps(entry).encode()
    (model / "extra.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + packed)


def _hard_link(model: Path) -> None:
    outside = model.parent / "somebody-elses.txt"
    outside.write_text("secret")
    os.link(outside, model / "notes.txt")


def _socket(model: Path) -> None:
    here = os.getcwd()
    os.chdir(model)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("s.json")
    os.chdir(here)


def _hollow(model: Path) -> None:
    path = model / WEIGHTS
    raw = path.read_bytes()
    length = 8 + struct.unpack("<Q", raw[:8])[0]
    path.unlink()
    with path.open("wb") as file:
        file.write(raw[:length])
        file.truncate(len(raw))
    shutil.copystat(model / "config.json", path)
