"""Joins the parts of a split GGUF file into one, as llama.cpp's own tool would; it writes beside, never into them.

Source of the keys ``split.no``, ``split.count`` and ``split.tensors.count``: gguf-split of llama.cpp.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from finery_contracts.errors import WeightsInvalid
from finery_weight_validator.engine.gguf_header import MAGIC, GgufFault, GgufHeader, read_header

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST_PARTS = 1_000
_COPY_BYTES = 4 * 2**20
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


def parts_of(path: Path) -> list[Path]:
    """All parts of the file that ``path`` is one of, in order, as far as they are there; itself alone when unsplit."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 < int(match["count"]) <= _MOST_PARTS:
        return [path]
    names = [f"{match['stem']}-{n:05d}-of-{match['count']}.gguf" for n in range(1, int(match["count"]) + 1)]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]


def whole_of(path: Path) -> str:
    """The same for all parts of one file, and for no other file's."""
    match = _PART.fullmatch(path.name)
    return f"{match['stem']}-of-{match['count']}.gguf" if match else path.name


def read_parts(paths: Sequence[Path]) -> list[GgufHeader]:
    """The headers of all parts, which must belong together; raises WeightsInvalid ``gguf_invalid``, ``gguf_split``."""
    headers: list[GgufHeader] = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except (GgufFault, OSError) as fault:
            raise WeightsInvalid(
                f"{path.name} cannot be used: {fault}; download it again, or give the model as safetensors.",
                code="gguf_invalid",
                param=path.name,
            ) from fault
    wanted = headers[0].facts.get("split.count") or 1
    numbers = [header.facts.get("split.no", 0) for header in headers]
    if wanted != len(headers) or numbers != list(range(len(headers))):
        raise _split(paths[0], f"it has {wanted} parts, and {len(headers)} of them are here")
    names = [tensor.name for header in headers for tensor in header.tensors]
    total = headers[0].facts.get("split.tensors.count", len(names))
    if len(set(names)) != len(names) or (len(headers) > 1 and total != len(names)):
        raise _split(paths[0], f"its parts hold {len(set(names))} tensors of their own, it claims {total}")
    return headers


def join(headers: Sequence[GgufHeader], target: Path, *, tell: Callable[[str], None]) -> None:
    """Write one file with the keys of the first part and the tensors of all; ``tell`` may raise to stop."""
    first = headers[0]
    entries = [raw for key, raw in first.entries.items() if key not in _SPLIT_KEYS]
    tensors = [(header, tensor) for header in headers for tensor in header.tensors]
    offset, infos = 0, []
    for _, tensor in tensors:
        name = tensor.name.encode()
        infos.append(
            struct.pack("<Q", len(name)) + name
            + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            + struct.pack("<IQ", tensor.kind, offset)
        )  # fmt: skip
        offset += -(-tensor.size_bytes // first.alignment) * first.alignment
    with target.open("xb") as out:
        out.write(MAGIC + struct.pack("<IQQ", first.version, len(tensors), len(entries)))
        out.write(b"".join(entries) + b"".join(infos))
        out.write(bytes(-out.tell() % first.alignment))
        for header, tensor in tensors:
            tell(f"joining {header.path.name}")
            _copy(header, header.data_begin + tensor.begin, tensor.size_bytes, out)
            out.write(bytes(-tensor.size_bytes % first.alignment))


def _copy(header: GgufHeader, begin: int, size: int, out: BinaryIO) -> None:
    with header.path.open("rb") as source:
        source.seek(begin)
        while size:
            chunk = source.read(min(_COPY_BYTES, size))
            if not chunk:
                raise _split(header.path, "it became shorter while it was read")
            out.write(chunk)
            size -= len(chunk)


def _split(path: Path, reason: str) -> WeightsInvalid:
    message = f"{path.name} is a part of a split file: {reason}; put all parts into the folder."
    return WeightsInvalid(message, code="gguf_split", param=path.name)
