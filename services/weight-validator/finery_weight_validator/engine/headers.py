"""Reads the headers of safetensors files with our own bounded reader, so that no tensor is loaded to be judged.

It refuses headers over 100 MB, places outside the file, overlaps and gaps. Format: 8 bytes little-endian length, a JSON
object of name → dtype, shape, data_offsets, then the data (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, warning

MAX_HEADER_BYTES = 100 * 2**20
MAX_TENSORS = 1_000_000
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
"""Bits of one value by the format's name for its type."""

_REMEDY = "save the model again with save_pretrained (safetensors), or download the file again"


@dataclass(slots=True)
class Tensor:
    """One tensor as its header describes it; ``begin`` and ``end`` are byte offsets in the file.

    Never changed, but not frozen: that would make it three times as slow to make, and a header has thousands.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many values."""
        return math.prod(self.shape)


class _HeaderFault(Exception):
    """The header as a whole cannot be used; the text says why."""


def read_tensors(path: Path) -> tuple[list[Tensor], list[Finding]]:
    """The tensors of one safetensors file, and what is wrong with its header (``header_invalid``, ``tensor_overlap``).

    A tensor whose own entry is faulty is left out and reported.
    """
    try:
        entries, data_begin, data_size = _read_header(path)
    except (_HeaderFault, OSError) as fault:
        return [], [_invalid(path.name, str(fault))]
    tensors, findings = [], []
    for name, entry in entries.items():
        try:
            tensors.append(_tensor_of(name, entry, file=path.name, data_begin=data_begin, data_size=data_size))
        except _HeaderFault as fault:
            findings.append(_invalid(f"{path.name}: {name[:200]}", str(fault)))
    if not findings:
        findings = _layout_findings(tensors, file=path.name, data_begin=data_begin, data_end=data_begin + data_size)
    return tensors, findings


def hollow_findings(path: Path, *, refused: bool) -> list[Finding]:
    """``weights_hollow`` when half of the file or more was never written: a download that made room and broke off.

    An error when ``refused``: there is nothing to read in it; else a warning, for headers can be judged all the same.
    Asks the file system for its first piece of data after each hole; where it keeps no account, nothing is hollow.
    """
    size = path.stat().st_size
    empty, place = 0, 0
    with path.open("rb") as file:
        try:
            while place < size and empty * 2 < size:
                hole = os.lseek(file.fileno(), place, os.SEEK_HOLE)
                place = _data_after(file.fileno(), hole, size)
                empty += place - hole
        except OSError:
            return []
    if empty * 2 < size or not size:
        return []
    message = f"at least {empty} of its {size} bytes were never written; they read as zeros"
    say = error if refused else warning
    return [say("weights_hollow", path.name, message=message, remedy="download the file again")]


def _data_after(descriptor: int, hole: int, size: int) -> int:
    if hole >= size:
        return size
    try:
        return os.lseek(descriptor, hole, os.SEEK_DATA)
    except OSError as fault:
        if fault.errno == errno.ENXIO:  # nothing but the hole up to the end
            return size
        raise


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The entries without metadata, where the data begins, and its size; all in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise _HeaderFault(f"the file has {size} bytes, less than the 8 of the length field")
        if length > MAX_HEADER_BYTES:
            raise _HeaderFault(f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
        if length > size - 8:
            raise _HeaderFault(f"the header claims {length} bytes, the file holds {size - 8} after the length field")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise _HeaderFault(f"the header is not JSON ({fault})") from fault
    if not isinstance(header, dict):
        raise _HeaderFault("the header is not a JSON object")
    about = header.pop("__metadata__", None)
    if about is not None and not (isinstance(about, dict) and all(type(text) is str for text in about.values())):
        raise _HeaderFault("__metadata__ is no object of texts, so the reader of the format refuses the file")
    if len(header) > MAX_TENSORS:
        raise _HeaderFault(f"the header names {len(header)} tensors; at most {MAX_TENSORS} are read")
    return header, 8 + length, size - 8 - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands twice in it")
    return entries


def _tensor_of(name: str, entry: Any, *, file: str, data_begin: int, data_size: int) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError) as fault:
        raise _HeaderFault("the entry lacks dtype, shape or data_offsets") from fault
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _HeaderFault(f"the dtype {str(dtype)[:40]!r} is not known")
    if not _are_sizes(shape):
        raise _HeaderFault("the shape is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _HeaderFault("data_offsets is not a pair of byte offsets")
    begin, end = offsets
    if not begin <= end <= data_size:
        raise _HeaderFault(f"data_offsets {begin}–{end} lie outside the {data_size} bytes of data")
    wanted = (math.prod(shape) * bits + 7) // 8
    if end - begin != wanted:
        raise _HeaderFault(f"{dtype} {shape} takes {wanted} bytes, data_offsets span {end - begin}")
    return Tensor(name, dtype, tuple(shape), file, data_begin + begin, data_begin + end)


def _are_sizes(values: Any) -> bool:
    if type(values) is not list or len(values) > 16:
        return False
    for value in values:  # noqa: SIM110 - a generator takes twice the time, and this is asked twice for each tensor
        if type(value) is not int or not 0 <= value < 2**63:
            return False
    return True


def _layout_findings(tensors: list[Tensor], *, file: str, data_begin: int, data_end: int) -> list[Finding]:
    """Data must be covered once: no overlap, no gap, nothing behind the last tensor."""
    placed = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
    findings = []
    if not placed:
        findings.append(_invalid(file, "the file holds no tensors"))
    for before, after in pairwise(placed):
        if after.begin < before.end:
            findings.append(
                error(
                    "tensor_overlap",
                    f"{file}: {after.name}",
                    message=f"it shares bytes with {before.name[:200]}",
                    remedy=_REMEDY,
                )
            )
        elif after.begin > before.end:
            findings.append(_invalid(f"{file}: {after.name[:200]}", "there are unused bytes before it"))
    if placed and not any(finding.code == "tensor_overlap" for finding in findings):
        if placed[0].begin != data_begin:
            findings.append(_invalid(file, "there are unused bytes before the first tensor"))
        if placed[-1].end != data_end:
            findings.append(_invalid(file, f"there are {data_end - placed[-1].end} unused bytes after the last tensor"))
    return findings


def _invalid(where: str, reason: str) -> Finding:
    return error("header_invalid", where, message=reason, remedy=_REMEDY)
