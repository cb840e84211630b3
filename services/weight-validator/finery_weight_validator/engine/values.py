"""Reads every weight once: not-a-number and infinite values, and the checksum of each file, in flat memory.

It compares bit patterns instead of computing, so no number format needs hardware support. Sources: IEEE 754, and for
8-bit floats the OCP 8-bit Floating Point and Microscaling Formats specifications.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, warning
from finery_weight_validator.engine.headers import Tensor

CHUNK_BYTES = 2**18
"""Small enough that hash, mask and maximum find it in the processor's own cache: twice as fast as with megabytes."""
_PATTERNS = {
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "C64": (np.dtype("<u4"), 0x7F80_0000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F8_E5M2": (np.dtype("u1"), 0x7C),
    "F8_E4M3": (np.dtype("u1"), 0x7F),
    "F8_E8M0": (np.dtype("u1"), 0xFF),
}
"""Integer view and the bits that are all set in NaN and infinity, and in nothing else."""
_Integers = npt.NDArray[np.uint8 | np.uint16 | np.uint32 | np.uint64]


def scan(path: Path, tensors: Sequence[Tensor], *, tell: Callable[[int], None]) -> tuple[str, list[Finding]]:
    """The file's sha256 and one ``not_finite`` for each tensor with such values; ``tell`` hears bytes read.

    ``tensors`` must cover the file's data without gap, as ``read_tensors`` has verified.
    """
    digest, findings = hashlib.sha256(), []
    buffer = bytearray(CHUNK_BYTES)
    room = memoryview(buffer)
    scratch = np.empty(CHUNK_BYTES, dtype=np.uint8)
    with path.open("rb", buffering=0) as file:
        placed = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
        digest.update(file.read(placed[0].begin if placed else -1))
        for tensor in placed:
            bad, left = 0, tensor.end - tensor.begin
            while left and (size := _fill(file, room[: min(CHUNK_BYTES, left)])):
                chunk = room[:size]
                digest.update(chunk)
                bad += _not_finite_in(chunk, tensor.dtype, scratch)
                left -= size
                tell(size)
            if bad or left:
                findings.append(_finding_of(tensor, bad))
    return digest.hexdigest(), findings


def tied_findings(tensors: Sequence[Tensor], folder: Path) -> list[Finding]:
    """``tied_embeddings_differ`` when config.json ties input and output, and the weights hold two that are not alike.

    Called for a tied model alone; a loader takes one of the two, and which one differs between them.
    """
    ends = [tensor for tensor in tensors if tensor.name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    if len(ends) != 2 or (ends[0].shape, ends[0].dtype) != (ends[1].shape, ends[1].dtype):
        return []
    with (folder / ends[0].file).open("rb") as one, (folder / ends[1].file).open("rb") as other:
        one.seek(ends[0].begin)
        other.seek(ends[1].begin)
        left = ends[0].end - ends[0].begin
        while left > 0:
            size = min(CHUNK_BYTES, left)
            if one.read(size) != other.read(size):
                message = (
                    f"config.json ties the embeddings, but {ends[0].name} and {ends[1].name} hold different values"
                )
                remedy = "set tie_word_embeddings to false if both are meant, else save the model again"
                return [warning("tied_embeddings_differ", ends[1].name, message=message, remedy=remedy)]
            left -= size
    return []


def _fill(file: FileIO, room: memoryview) -> int:
    """Whole values only: a short read in the middle of one is completed, the end of the file ends it."""
    done = 0
    while done < len(room):
        size = file.readinto(room[done:])
        if not size:
            break
        done += size
    return done


def _not_finite_in(chunk: memoryview, dtype: str, scratch: npt.NDArray[np.uint8]) -> int:
    """How many; the maximum of the masked bits says in two quick passes whether there is any to be counted."""
    if dtype not in _PATTERNS:
        return 0
    view, bits = _PATTERNS[dtype]
    count = len(chunk) // view.itemsize
    values: _Integers = np.frombuffer(chunk, dtype=view, count=count)
    masked: _Integers = scratch[: count * view.itemsize].view(view)
    mask = view.type(bits)
    np.bitwise_and(values, mask, out=masked)
    return int(np.count_nonzero(masked == mask)) if count and masked.max() == mask else 0


def _finding_of(tensor: Tensor, bad: int) -> Finding:
    message = f"{bad} of {tensor.count} values are NaN or infinite" if bad else "the file became shorter while read"
    return error(
        "not_finite",
        f"{tensor.file}: {tensor.name}",
        message=message,
        remedy="take the weights from before the training went wrong, or download the file again",
    )
