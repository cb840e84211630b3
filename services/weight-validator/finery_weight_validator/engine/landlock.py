"""Takes from this process, for good, what it never needs: writing outside one folder, starting programs, TCP.

Linux's Landlock does it without privileges; where the system has none, nothing is taken and False is returned. Source:
the kernel's userspace API documentation, landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38
_EXECUTE, _WRITE_FILE, _REFER, _TRUNCATE = 1 << 0, 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_BIND_AND_CONNECT = 3


def confine(writable: Path | None) -> bool:
    """From now on files are written under ``writable`` alone, no program is started, no TCP spoken. Never undone."""
    try:
        system = ctypes.CDLL(None)
        version = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    except (OSError, AttributeError):
        return False
    if version < 1:
        return False
    writing = _WRITE_FILE | _REMOVE_AND_MAKE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = struct.pack("<Q", writing | _EXECUTE) + (struct.pack("<Q", _BIND_AND_CONNECT) if version >= 4 else b"")
    rules = system.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    truncate = writing & _TRUNCATE
    allowed = {Path(os.devnull): _WRITE_FILE | truncate}
    if writable is not None:
        allowed[writable] = writing
    for path, rights in allowed.items():
        place = os.open(path, os.O_PATH)
        system.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("<Qi", rights, place), 0)
        os.close(place)
    system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = system.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done
