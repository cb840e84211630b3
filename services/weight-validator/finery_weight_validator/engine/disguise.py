"""Says what a file is by its bytes, whatever its name claims: pickle, archive, code, or nothing that matters here.

It reads the first 64 KB and the last 22 bytes, of what may be a pickle up to 16 MB, and parses opcodes at most: nothing
is unpickled or unpacked. Sources: pickletools for opcodes, and the magic numbers of each format's own specification.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
from pathlib import Path
from typing import Literal, NamedTuple

Nature = Literal["pickle", "archive", "code", "foreign", "pointer"]

_HEAD_BYTES = 64 * 2**10
_ARCHIVES = (
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18", b"PK\x05\x06", b"\x5d\x00\x00", b"\x1f\x9d", b"\x1f\xa0", b"MSCF\x00\x00\x00\x00",
    b"!<arch>\n", b"\xed\xab\xee\xdb",
)  # fmt: skip
_ZIP, _ZIP_END, _TAR_AT = b"PK\x03\x04", b"PK\x05\x06", 257
_CODE = (b"\x7fELF", b"#!/", b"#! /", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\x00asm")
_FOREIGN = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
"""Containers whose readers may run code: HDF5 as Keras uses it, NumPy arrays of objects."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"INST", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_MOST_OPCODES, _MOST_BYTES = 2_000, 16 * 2**20
_NAMES = re.compile(r"[^\W\d][\w.<>]{0,199}( [^\W\d][\w.<>]{0,199})?")


def nature_of(path: Path) -> Nature | None:
    """What the file is; None for what is neither refused nor a pointer. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _HEAD_BYTES if size < _HEAD_BYTES * 64 else 512, 0)
        tail = os.pread(descriptor, 22, max(size - 22, 0))
        nature = _by_magic(head, tail)
        if nature is None and len(head) < size and not _is_safetensors(head) and _opcodes_of(head).ran_out:
            nature = _by_magic(os.pread(descriptor, _MOST_BYTES, 0), tail)
        return nature
    finally:
        os.close(descriptor)


def _by_magic(head: bytes, tail: bytes) -> Nature | None:
    if head.startswith(_POINTER):
        return "pointer"
    if _is_safetensors(head):
        return "archive" if tail.startswith(_ZIP_END) else None
    if head.startswith(_ZIP):
        return "pickle" if b".pkl" in head or b"/version" in head[:4096] else "archive"
    if head.startswith(_ARCHIVES) or head[_TAR_AT : _TAR_AT + 5] == b"ustar" or tail.startswith(_ZIP_END):
        return "archive"
    if head.startswith(_CODE) or (head.startswith(b"MZ") and b"\0" in head[:64]):
        return "code"
    if head.startswith(_FOREIGN):
        return "foreign"
    return "pickle" if _is_pickle(head) else None


def _is_safetensors(head: bytes) -> bool:
    """A length field of at most 100 MB and a brace: a length may begin with the very bytes of a pickle."""
    return len(head) > 8 and head[8:9] == b"{" and head[4:8] == b"\0\0\0\0"


def _is_pickle(head: bytes) -> bool:
    """Binary ones say so in two bytes; the oldest protocols are told by their opcodes.

    A text is one only when it parses up to the end and would import something; one that breaks off, when it has
    imported and called something by then: that is done before a reader meets the end.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    found = _opcodes_of(head)
    return found.imports and (found.calls or not found.ran_out)


class _Opcodes(NamedTuple):
    """What the bytes would do as a pickle; ``ran_out``: they are one as far as they go, and break off."""

    imports: bool = False
    calls: bool = False
    ran_out: bool = False


def _opcodes_of(head: bytes) -> _Opcodes:
    seen, stack, stream, ran_out = set[str](), list[object](), io.BytesIO(head), False
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            named = opcode.name not in ("GLOBAL", "INST") or _NAMES.fullmatch(str(argument))
            if not named or not _fits(opcode, stack):
                return _Opcodes()
            seen.add(opcode.name)
            if opcode.name == "STOP" or count > _MOST_OPCODES:
                break
    except Exception:  # the parser has no error of its own: what it stumbles over is no pickle, or one that breaks off
        ran_out = stream.tell() >= len(head) > 0
        if not ran_out:
            return _Opcodes()
    return _Opcodes(bool(seen & _IMPORTS), bool(seen & _CALLS), ran_out)


def _fits(opcode: pickletools.OpcodeInfo, stack: list[object]) -> bool:
    """Whether the stack holds what the opcode takes, which plain words seldom do; the stack is brought up to date."""
    taken: list[object] = list(opcode.stack_before)
    mark = pickletools.markobject
    if mark in taken:
        if mark not in stack:
            return False
        del stack[len(stack) - 1 - stack[::-1].index(mark) :]
        taken = taken[: taken.index(mark)]
    if len(stack) < len(taken):
        return False
    del stack[len(stack) - len(taken) :]
    stack.extend(opcode.stack_after)
    return True
