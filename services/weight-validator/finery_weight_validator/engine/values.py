"""Reads every weight once: not-a-number and infinite values, and the checksum of each file, in flat memory.

It compares bit patterns instead of computing, so no number format needs hardware support. Sources: IEEE 754, and for
8-bit floats the OCP 8-bit Floating Point Specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error
from finery_weight_validator.engine.headers import Tensor

_CHUNK_BYTES = 8 * 2**20
_PATTERNS = {
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F8_E5M2": (np.dtype("u1"), 0x7C),
    "F8_E4M3": (np.dtype("u1"), 0x7F),
}
"""Integer view and the bits that are all set in NaN and infinity, and in nothing else."""


def scan(path: Path, tensors: Sequence[Tensor], *, tell: Callable[[int], None]) -> tuple[str, list[Finding]]:
    """The file's sha256 and one ``not_finite`` for each tensor with such values; ``tell`` hears bytes read.

    ``tensors`` must cover the file's data without gap, as ``read_tensors`` has verified.
    """
    digest, findings = hashlib.sha256(), []
    with path.open("rb") as file:
        placed = sorted(tensors, key=lambda tensor: tensor.begin)
        digest.update(file.read(placed[0].begin if placed else -1))
        for tensor in placed:
            bad, left = 0, tensor.end - tensor.begin
            while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
                digest.update(chunk)
                bad += _not_finite_in(chunk, tensor.dtype)
                left -= len(chunk)
                tell(len(chunk))
            if bad or left:
                findings.append(_finding_of(tensor, bad))
    return digest.hexdigest(), findings


def _not_finite_in(chunk: bytes, dtype: str) -> int:
    if dtype not in _PATTERNS:
        return 0
    view, bits = _PATTERNS[dtype]
    values = np.frombuffer(chunk, dtype=view)
    mask = view.type(bits)
    return int(np.count_nonzero((values & mask) == mask))


def _finding_of(tensor: Tensor, bad: int) -> Finding:
    message = f"{bad} of {tensor.count} values are NaN or infinite" if bad else "the file became shorter while read"
    return error(
        "not_finite",
        f"{tensor.file}: {tensor.name}",
        message=message,
        remedy="take the weights from before the training went wrong, or download the file again",
    )
