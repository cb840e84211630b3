"""Reads the header of a GGUF file with our own bounded reader, before any library sees the file.

It refuses lying counts, lengths, offsets, types and alignments. Format: the GGUF specification of ggml (versions 2, 3).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS, MAX_KEYS = 1_000_000, 100_000
MAX_ITEMS, MAX_TEXT_BYTES, MAX_DEPTH = 5_000_000, 16 * 2**20, 2
_SLACK_BYTES = 4096
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """One tensor; ``begin`` counts from where the data begins, ``info`` is where its entry lies in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    size_bytes: int

    @property
    def count(self) -> int:
        """How many values."""
        return math.prod(self.shape)


@dataclass
class GgufHeader:
    """``facts`` holds the single values by key, ``entries`` the raw bytes of every key-value pair."""

    path: Path
    version: int
    facts: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, bytes] = field(default_factory=dict)
    tensors: list[GgufTensor] = field(default_factory=list)
    alignment: int = 32
    data_begin: int = 0


class GgufFault(Exception):
    """The file cannot be used; the text says why."""


def gguf_findings(path: Path) -> list[Finding]:
    """``gguf_invalid``, or nothing."""
    try:
        read_header(path)
    except (GgufFault, OSError) as fault:
        remedy = "download the file again, or give the model as safetensors"
        return [error("gguf_invalid", path.name, message=str(fault), remedy=remedy)]
    return []


def read_header(path: Path) -> GgufHeader:
    """Everything but the tensors' data; raises GgufFault, or OSError."""
    with path.open("rb") as file:
        start = file.read(24)
        if len(start) < 24 or start[:4] != MAGIC:
            raise GgufFault("it does not begin as a GGUF file does")
        version, tensors, keys = struct.unpack("<IQQ", start[4:])
        if version not in VERSIONS:
            raise GgufFault(f"it is of version {version}; versions 2 and 3 are read")
        if not 0 < tensors <= MAX_TENSORS or keys > MAX_KEYS:
            raise GgufFault(
                f"it claims {tensors} tensors and {keys} keys; at most {MAX_TENSORS} and {MAX_KEYS} are read"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            reader = _Reader(raw)
            try:
                return _read(reader, GgufHeader(path, version), keys=keys, tensors=tensors)
            except (struct.error, IndexError) as fault:
                raise GgufFault("it breaks off inside its header") from fault
            except UnicodeDecodeError as fault:
                raise GgufFault("a name in it is no UTF-8") from fault


class _Reader:
    """A place in the file, and how many items may still come."""

    def __init__(self, raw: mmap.mmap) -> None:
        self.raw, self.place, self.items_left = raw, 24, MAX_ITEMS

    def number(self, form: str) -> Any:
        value = struct.unpack_from(form, self.raw, self.place)[0]
        self.place += struct.calcsize(form)
        return value

    def text(self) -> str:
        return self.bytes_().decode()

    def bytes_(self) -> bytes:
        length = self.number("<Q")
        if length > MAX_TEXT_BYTES:
            raise GgufFault(f"a text in it claims {length} bytes; at most {MAX_TEXT_BYTES} are read")
        if self.place + length > len(self.raw):
            raise GgufFault("it breaks off inside a text")
        self.place += length
        return self.raw[self.place - length : self.place]

    def value(self, kind: int, depth: int = 0) -> Any:
        """The value, or None for a list: its bytes are enough for everybody here."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text() if depth == 0 else self.bytes_() and None
        if kind != _LIST:
            raise GgufFault(f"it holds a value of the unknown kind {kind}")
        if depth >= MAX_DEPTH:
            raise GgufFault("its lists are nested too deep")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _NUMBERS:
            size = count * struct.calcsize(_NUMBERS[inner])
            if self.place + size > len(self.raw):
                raise GgufFault(f"a list in it claims {count} numbers, more than the file holds")
            self.place += size
            return None
        self.items_left -= count
        if self.items_left < 0:
            raise GgufFault(f"its lists claim more than {MAX_ITEMS} items")
        for _ in range(count):
            self.value(inner, depth + 1)
        return None


def _read(reader: _Reader, header: GgufHeader, *, keys: int, tensors: int) -> GgufHeader:
    for _ in range(keys):
        begin = reader.place
        key = reader.text()
        if key in header.entries:
            raise GgufFault(f"the key {key[:80]!r} stands twice in it")
        value = reader.value(reader.number("<I"))
        header.entries[key] = reader.raw[begin : reader.place]
        if value is not None:
            header.facts[key] = value
    header.alignment = header.facts.get("general.alignment", 32)
    if type(header.alignment) is not int or not 8 <= header.alignment <= 2**20 or header.alignment % 8:
        raise GgufFault(f"its alignment {str(header.alignment)[:40]} is no multiple of 8 from 8 to {2**20}")
    if not isinstance(header.facts.get("general.architecture"), str):
        raise GgufFault("it does not say its architecture (general.architecture)")
    entries = [_read_entry(reader) for _ in range(tensors)]
    header.data_begin = -(-reader.place // header.alignment) * header.alignment
    data_size = len(reader.raw) - header.data_begin
    header.tensors = [_checked(entry, header.alignment, data_size) for entry in entries]
    _check_layout(header, data_size)
    return header


def _read_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = reader.text(), reader.number("<I")
    if not 1 <= dimensions <= 4:
        raise GgufFault(f"the tensor {name[:80]!r} claims {dimensions} dimensions")
    shape = tuple(reader.number("<Q") for _ in range(dimensions))
    return name, shape, reader.number("<I"), reader.number("<Q")


def _checked(entry: tuple[str, tuple[int, ...], int, int], alignment: int, data_size: int) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, shape, kind, begin = entry
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as fault:
        raise GgufFault(f"the tensor {name[:80]!r} is of the unknown type {kind}") from fault
    count = math.prod(shape)
    if not 0 < count < 2**62 or shape[0] % block:
        raise GgufFault(f"the shape {list(shape)} of the tensor {name[:80]!r} cannot be")
    size = count // block * block_bytes
    if begin % alignment or begin + size > data_size:
        raise GgufFault(f"the tensor {name[:80]!r} claims {size} bytes at {begin}; there are {max(data_size, 0)}")
    return GgufTensor(name, shape, kind, begin, size)


def _check_layout(header: GgufHeader, data_size: int) -> None:
    placed = sorted(header.tensors, key=lambda tensor: (tensor.begin, tensor.size_bytes))
    if len({tensor.name for tensor in placed}) != len(placed):
        raise GgufFault("a tensor's name stands twice in it")
    for before, after in pairwise(placed):
        if after.begin < before.begin + before.size_bytes:
            raise GgufFault(f"the tensors {before.name[:80]!r} and {after.name[:80]!r} share bytes")
    unused = data_size - placed[-1].begin - placed[-1].size_bytes
    if unused > header.alignment + _SLACK_BYTES:
        raise GgufFault(f"there are {unused} unused bytes behind its last tensor")
