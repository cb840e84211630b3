"""Rules of projects and keys (SPEC PR2, PR6). Pure."""

from __future__ import annotations

import re

from finery_contracts.access import Role
from finery_contracts.errors import Conflict, Forbidden, InvalidRequest

MAX_KEYS = 5
NAME = re.compile(r"[A-Za-z\u4e00-\u9fff][A-Za-z0-9\u4e00-\u9fff_-]{0,63}")
MODEL_NAME = re.compile(r"[A-Za-z\u4e00-\u9fff][A-Za-z0-9\u4e00-\u9fff_.-]{0,63}")
_RANK = {Role.READ: 0, Role.COMMON: 1, Role.FULL: 2, Role.OPERATOR: 3}


def check_name(name: str, *, param: str = "name", model: bool = False) -> str:
    """The name, if it is one.

    Raises:
        InvalidRequest: ``name_invalid``, with the rule.
    """
    if not (MODEL_NAME if model else NAME).fullmatch(name):
        extra = ", '-' or '.'" if model else " or '-'"
        raise InvalidRequest(
            f"{name!r} is not a name: 1 to 64 characters, first a letter or Chinese character, then letters, Chinese "
            f"characters, digits, '_'{extra}",
            code="name_invalid",
            param=param,
        )
    return name


def check_role(role: Role, needed: Role) -> None:
    """Raises Forbidden unless ``role`` includes ``needed``."""
    if _RANK[role] < _RANK[needed]:
        raise Forbidden(f"this key's role is {role}; this needs {needed}", code="role_too_low")


def check_may_add_key(living: int) -> None:
    """Raises Conflict at the limit."""
    if living >= MAX_KEYS:
        raise Conflict(
            f"there are {living} keys for this user and project already, the limit is {MAX_KEYS}; revoke one first",
            code="too_many_keys",
        )
