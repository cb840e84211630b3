"""The inbox: a fact is applied once, however often it comes and under whatever id.

Rows older than the policy's age are folded into one line a noun (the floor). A fact below the floor counts as applied:
by then nothing that was not heard can still be on its way, for dead letters are kept for a shorter time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import text

from finery_contracts.envelope import Event
from finery_contracts.retention import Retention
from finery_kit.db import Transaction

E = TypeVar("E", bound=Event)
Key = tuple[str, str, int]
FOLD = 500

# Postgres: one statement for a whole batch. Two replicas that hear the same fact: the second waits for the first's
# commit, then finds the key taken. Sorted, so that they cannot wait for each other.
_POSTGRES = text("""
insert into inbox (noun, noun_id, version, seen_on)
select heard.noun, heard.noun_id, heard.version, :today from (
  select value ->> 0 as noun, value ->> 1 as noun_id, cast(value ->> 2 as integer) as version
  from jsonb_array_elements(cast(:keys as jsonb)) as value) as heard
where not exists (
  select 1 from inbox_floor floor
  where floor.noun = heard.noun and floor.noun_id = heard.noun_id and floor.version >= heard.version)
order by 1, 2, 3
on conflict do nothing returning noun, noun_id, version
""")
# SQLite has one writer, so it may look first. Only the few that are known are returned: each row that is fetched takes
# the interpreter's lock anew, which cost more than the insert (measured).
_HEARD = """
(select json_extract(value, '$[0]') as noun, json_extract(value, '$[1]') as noun_id,
        json_extract(value, '$[2]') as version from json_each(:keys)) as heard"""
_SQLITE_KNOWN = text(f"""
select heard.noun, heard.noun_id, heard.version from {_HEARD}
where exists (
  select 1 from inbox where inbox.noun = heard.noun and inbox.noun_id = heard.noun_id
  and inbox.version = heard.version)
or exists (
  select 1 from inbox_floor floor
  where floor.noun = heard.noun and floor.noun_id = heard.noun_id and floor.version >= heard.version)
""")
_SQLITE_ADD = text(f"""
insert into inbox (noun, noun_id, version, seen_on)
select heard.noun, heard.noun_id, heard.version, :today from {_HEARD} where true
on conflict do nothing
""")


def first_sight(tx: Transaction, event: Event) -> bool:
    """True the first time this fact is seen here; remembers it in the same transaction as its effect."""
    return bool(first_sights(tx, [event]))


def first_sights(tx: Transaction, events: Sequence[E]) -> list[E]:
    """Those that were not seen here, each once, in the order they came; remembers them in the same transaction."""
    keys = [_key(event) for event in events]
    new = remember(tx, keys)
    found: list[E] = []
    for event, key in zip(events, keys, strict=True):
        if key in new:
            new.remove(key)
            found.append(event)
    return found


def remember(tx: Transaction, keys: Iterable[Key]) -> set[Key]:
    """Those of the keys that were not there; now they are."""
    tx.session.flush()
    connection, asked = tx.session.connection(), set(keys)
    today = _day(tx.now)
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_POSTGRES, {"keys": json.dumps(list(asked)), "today": today})
        return {(noun, noun_id, version) for noun, noun_id, version in rows}
    known = connection.execute(_SQLITE_KNOWN, {"keys": json.dumps(list(asked))}).all()
    new = asked - {(noun, noun_id, version) for noun, noun_id, version in known}
    if new:
        connection.execute(_SQLITE_ADD, {"keys": json.dumps(sorted(new)), "today": today})
    return new


def fold_old_rows(tx: Transaction, policy: Retention) -> bool:
    """Fold the rows of some nouns into their floor; True when there may be more."""
    before = {"before": _day(tx.now - timedelta(days=policy.inbox_days))}
    connection = tx.session.connection()
    nouns = list(connection.execute(_OLD_NOUNS, before | {"limit": FOLD}))
    for noun, noun_id, version in nouns:
        key = {"noun": noun, "noun_id": noun_id, "version": version}
        connection.execute(_RAISE_FLOOR, key)
        connection.execute(_FORGET, key)
    return len(nouns) == FOLD


_OLD_NOUNS = text(
    "select noun, noun_id, max(version) from inbox where seen_on < :before and seen_on <> '' "
    "group by noun, noun_id limit :limit"
)
_RAISE_FLOOR = text(
    "insert into inbox_floor (noun, noun_id, version) values (:noun, :noun_id, :version) "
    "on conflict (noun, noun_id) do update set version = excluded.version "
    "where excluded.version > inbox_floor.version"
)
_FORGET = text("delete from inbox where noun = :noun and noun_id = :noun_id and version <= :version")


def _key(event: Event) -> Key:
    return (type(event).NOUN, event.noun_id, event.nounversion)


def _day(moment: datetime) -> str:
    return moment.date().isoformat()


__all__ = ["first_sight", "first_sights", "fold_old_rows", "remember"]
