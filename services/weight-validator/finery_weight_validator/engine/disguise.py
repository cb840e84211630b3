"""Says what a file is by its bytes, whatever its name claims: pickle, archive, code, or nothing that matters here.

It reads the first 64 KB and the last 22 bytes, and parses opcodes at most: nothing is unpickled or unpacked. Sources:
pickletools for opcodes, and the magic numbers of each format's own specification.
"""

from __future__ import annotations

import os
import pickletools
import re
from pathlib import Path
from typing import Literal

Nature = Literal["pickle", "archive", "code", "foreign", "pointer"]

_HEAD_BYTES = 64 * 2**10
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd",
             b"\x04\x22\x4d\x18", b"PK\x05\x06")  # fmt: skip
_ZIP, _ZIP_END, _TAR_AT = b"PK\x03\x04", b"PK\x05\x06", 257
_CODE = (b"\x7fELF", b"#!/", b"#! /", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\x00asm")
_FOREIGN = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
"""Containers whose readers may run code: HDF5 as Keras uses it, NumPy arrays of objects."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_RUNS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2",
                   "EXT4", "PERSID", "BINPERSID"})  # fmt: skip
_MOST_OPCODES = 2_000
_NAMES = re.compile(r"[\w.<>]{1,200}( [\w.<>]{1,200})?")


def nature_of(path: Path) -> Nature | None:
    """What the file is; None for what is neither refused nor a pointer. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _HEAD_BYTES if size < _HEAD_BYTES * 64 else 512, 0)
        tail = os.pread(descriptor, 22, max(size - 22, 0))
    finally:
        os.close(descriptor)
    return _by_magic(head, tail)


def _by_magic(head: bytes, tail: bytes) -> Nature | None:
    if head.startswith(_POINTER):
        return "pointer"
    if _is_safetensors(head):
        return "archive" if tail.startswith(_ZIP_END) else None
    if head.startswith(_ZIP):
        return "pickle" if b".pkl" in head or b"/version" in head[:4096] else "archive"
    if head.startswith(_ARCHIVES) or head[_TAR_AT : _TAR_AT + 5] == b"ustar" or tail.startswith(_ZIP_END):
        return "archive"
    if head.startswith(_CODE):
        return "code"
    if head.startswith(_FOREIGN):
        return "foreign"
    return "pickle" if _is_pickle(head) else None


def _is_safetensors(head: bytes) -> bool:
    """A length field of at most 100 MB and a brace: a length may begin with the very bytes of a pickle."""
    return len(head) > 8 and head[8:9] == b"{" and head[4:8] == b"\0\0\0\0"


def _is_pickle(head: bytes) -> bool:
    """Binary ones say so in two bytes; the oldest protocol is text, and told by its opcodes.

    A text is one only when it parses up to the end and would call or import something.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    runs = False
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(head)):
            if opcode.name in ("GLOBAL", "INST") and not _NAMES.fullmatch(str(argument)):
                return False
            runs = runs or opcode.name in _RUNS
            if opcode.name == "STOP" or count > _MOST_OPCODES:
                return runs
    except Exception:  # whatever the parser stumbles over is no pickle, or one that breaks off
        return False
    return runs
