"""Keeps the deadlines: facts move them, time makes them due, each is said once."""

from __future__ import annotations

from collections.abc import Sequence

from finery_billing_meter.deadlines import domain, store
from finery_billing_meter.deadlines.domain import Live
from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.envelope import Event
from finery_kit.db import Transaction
from finery_kit.delivery import emit

AT_ONCE = 200


def follow(tx: Transaction, events: Sequence[Event]) -> None:
    """What runs, as these facts show it. An older fact than the newest known one changes nothing."""
    noun_ids = [event.noun_id for event in events]
    before = store.known(tx.session, set(noun_ids))

    now: dict[str, Live | None] = dict(before)
    for noun_id, event in zip(noun_ids, events, strict=True):
        now[noun_id] = domain.after(now.get(noun_id), event)

    changed = [live for noun_id, live in now.items() if live is not None and live != before.get(noun_id)]
    store.save(tx.session, changed)


def ring(tx: Transaction) -> int:
    """Say what is due by now; how many there were."""
    due = store.due(tx.session, tx.now, limit=AT_ONCE)

    looked = [domain.look(live, tx.now) for live in due]

    for live, say, due_at in looked:
        if say is not None and due_at is not None:
            kind = AutoStopDue if say == "due" else AutoStopWarned
            view = live.view(due_at, tx.now)
            emit(tx, kind, live.noun_id, project=live.project, version=live.alarms, data=view)
    store.save(tx.session, [live for live, _, _ in looked])
    return len(due)
