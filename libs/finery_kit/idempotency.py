"""Idempotency keys: a request that comes again under its key is answered again and never carried out again.

The key lies in the transaction of the effect, with the answer; a request that failed leaves none. It refuses a key that
came with another request. The key's own text is not kept, only its hash: some answers hold a secret derived from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import delete, text, update
from sqlmodel import Session, col, select

from finery_contracts.errors import Conflict, InvalidRequest, Unprocessable
from finery_contracts.retention import Retention
from finery_kit.columns import UtcText
from finery_kit.db import Database, Transaction
from finery_kit.delivery_tables import IdempotencyRow

T = TypeVar("T")
MAX_KEY = 255
FORGET_EVERY_S = 60.0
FORGET_AT_ONCE = 1000
RETRY_S = 1.0


@dataclass(frozen=True)
class Asked:
    """A request under a key: the key belongs to the project, ``digest`` tells this request from every other."""

    project: str
    key: str = field(repr=False)
    digest: str

    @property
    def key_hash(self) -> str:
        """What is kept of the key."""
        return hashlib.sha256(self.key.encode()).hexdigest()


def check_key(key: str) -> str:
    """The key, if it is one.

    Raises:
        InvalidRequest: it is empty, too long, or holds other characters than printable ones of ASCII.
    """
    if not 0 < len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"an Idempotency-Key has 1 to {MAX_KEY} printable characters of ASCII, such as a UUID",
            code="idempotency_key_invalid",
            param="Idempotency-Key",
        )
    return key


def digest_of(*parts: Any) -> str:
    """The fingerprint of what a request says: equal for JSON that means the same, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def in_progress() -> Conflict:
    """The same request is being carried out: its answer is not there yet."""
    return Conflict(
        "a request with this Idempotency-Key is being carried out; send it again in a moment to get its answer",
        code="request_in_progress",
        param="Idempotency-Key",
        retry_after_s=RETRY_S,
    )


def once(
    tx: Transaction, asked: Asked | None, answer: type[T], work: Callable[[Transaction], T], *,
    keep: Callable[[T], T] | None = None,
) -> T:  # fmt: skip
    """``work``, or what it answered before. What ``work`` raises undoes the key together with everything else.

    ``keep``: what of the answer is kept, when it holds something that must not be.

    Two at the same time: one waits for the other's commit (Postgres) or comes after it (SQLite), then gets its answer.

    Raises:
        Unprocessable: the key was used for another request.
    """
    if asked is None:
        return work(tx)
    shape = TypeAdapter(answer)
    told = reserve(tx, asked)
    if told is not None:
        return shape.validate_json(told)
    made = work(tx)
    settle(tx, asked, shape.dump_json(keep(made) if keep is not None else made).decode())
    return made


def reserve(tx: Transaction, asked: Asked) -> str | None:
    """Take the key for this request; the answer that was given under it, if there is one.

    Raises:
        Unprocessable: the key was used for another request.
    """
    tx.session.flush()
    row = {
        "project": asked.project, "key_hash": asked.key_hash, "digest": asked.digest,
        "created_at": UtcText().process_bind_param(tx.now, tx.session.get_bind().dialect),
    }  # fmt: skip
    if tx.session.connection().execute(_TAKE, row).first() is not None:
        return None
    # Held to the end: of two that find a key without an answer, the second waits for the first.
    query = select(IdempotencyRow.digest, IdempotencyRow.answer).where(*_is(asked)).with_for_update()
    found = tx.session.exec(query).first()
    if found is None:  # it was given back between the two statements
        raise in_progress()
    return _told(asked, *found)


def settle(tx: Transaction, asked: Asked, answer: str) -> None:
    """Keep the answer (JSON) of a request that holds its key."""
    tx.session.flush()
    tx.session.exec(update(IdempotencyRow).where(*_is(asked)).values(answer=answer))


def release(tx: Transaction, asked: Asked) -> None:
    """Give a key back whose request was not carried out."""
    tx.session.exec(delete(IdempotencyRow).where(*_is(asked), col(IdempotencyRow.answer).is_(None)))


def answered(session: Session, asked: Asked) -> str | None:
    """What was answered under this key before, if anything.

    Raises:
        Unprocessable: the key was used for another request.
    """
    found = session.exec(select(IdempotencyRow.digest, IdempotencyRow.answer).where(*_is(asked))).first()
    return None if found is None else _told(asked, *found)


def forget(tx: Transaction, before: datetime) -> bool:
    """Drop some of the keys that are older; True when there may be more."""
    old = select(IdempotencyRow.key_hash, IdempotencyRow.project).where(col(IdempotencyRow.created_at) < before)
    keys = list(tx.session.exec(old.limit(FORGET_AT_ONCE)))
    for key_hash, project in keys:
        mine = col(IdempotencyRow.project) == project, col(IdempotencyRow.key_hash) == key_hash
        tx.session.exec(delete(IdempotencyRow).where(*mine, col(IdempotencyRow.created_at) < before))
    return len(keys) == FORGET_AT_ONCE


async def forget_loop(database: Database, policy: Retention) -> None:
    """Keys live as long as the policy says. Until cancelled."""
    kept = timedelta(hours=policy.idempotency_hours)
    while True:
        while await database.write(lambda tx: forget(tx, tx.now - kept)):
            pass
        await asyncio.sleep(FORGET_EVERY_S)


_TAKE = text(
    "insert into idempotency_key (project, key_hash, digest, created_at) "
    "values (:project, :key_hash, :digest, :created_at) on conflict do nothing returning key_hash"
)


def _is(asked: Asked) -> tuple[Any, Any]:
    return col(IdempotencyRow.project) == asked.project, col(IdempotencyRow.key_hash) == asked.key_hash


def _told(asked: Asked, digest: str, answer: str | None) -> str | None:
    if digest != asked.digest:
        raise Unprocessable(
            "this Idempotency-Key was used for another request; use a new one for each request",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    return answer


__all__ = [
    "Asked", "answered", "check_key", "digest_of", "forget", "forget_loop", "in_progress",
    "once", "release", "reserve", "settle",
]  # fmt: skip
