"""Which faults of a database mean *not now*: full, away, locked, failing over. It turns them into ``Unavailable``.

Whoever hears that waits and tries again: nobody's message is wrong. All other faults stay what they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from finery_contracts.errors import Unavailable

FULL = "the database has no room left; free disk space and try again, nothing was half done"
AWAY = "the database does not answer at the moment; try again in a few seconds, nothing was half done"
FULL_RETRY_S, AWAY_RETRY_S = 30.0, 5.0

# https://sqlite.org/rescode.html: primary result codes.
_SQLITE_FULL = 13
_SQLITE_AWAY = {5, 6, 8, 10, 14, 15}  # busy, locked, read-only, input/output error, cannot open, protocol
# https://www.postgresql.org/docs/current/errcodes-appendix.html: class 53 is insufficient resources.
_POSTGRES_FULL = {"53000", "53100", "53200", "53300", "53400"}
_POSTGRES_AWAY = {"25006", "40001", "40P01", "55P03", "57P01", "57P02", "57P03", "58030"}


@contextlib.contextmanager
def outages_told() -> Generator[None]:
    """Raises Unavailable where the database was full or away."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as fault:
        for cause in _causes(fault):
            told = unavailable(cause)
            if told is not None:
                raise told from fault
        raise


def _causes(fault: BaseException | None) -> Generator[DBAPIError | PoolTimeoutError]:
    """The fault, and those it came of: a full SQLite ends the transaction, and then its savepoint cannot be found."""
    while fault is not None:
        if isinstance(fault, DBAPIError | PoolTimeoutError):
            yield fault
        fault = fault.__context__


def unavailable(fault: DBAPIError | PoolTimeoutError) -> Unavailable | None:
    """What to tell of an outage; None for a fault that is none."""
    if isinstance(fault, PoolTimeoutError):
        return Unavailable(AWAY, retry_after_s=AWAY_RETRY_S)
    driver: Any = fault.orig
    code = getattr(driver, "sqlite_errorcode", None)
    state = getattr(driver, "sqlstate", None)
    if (code is not None and code & 0xFF == _SQLITE_FULL) or state in _POSTGRES_FULL:
        return Unavailable(FULL, retry_after_s=FULL_RETRY_S)
    lost = fault.connection_invalidated or _is_cut_off(driver, state)
    if (code is not None and code & 0xFF in _SQLITE_AWAY) or state in _POSTGRES_AWAY or lost:
        return Unavailable(AWAY, retry_after_s=AWAY_RETRY_S)
    return None


def _is_cut_off(driver: Any, state: str | None) -> bool:
    """psycopg: a connection that could not be made, or broke, has no state or one of class 08."""
    if not type(driver).__module__.startswith("psycopg"):
        return False
    if state is None:
        return type(driver).__name__ in ("OperationalError", "InterfaceError")
    return state.startswith("08")
