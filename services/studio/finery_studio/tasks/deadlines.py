"""What studio does when the billing meter says that time or money is used up: facts in, stops out."""

from __future__ import annotations

from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.tasks import StopReason
from finery_kit.db import Transaction
from finery_studio.tasks.handlers import TaskDesk


def on_auto_stop_warned(tx: Transaction, event: AutoStopWarned, *, desk: TaskDesk) -> None:
    """A task's people hear that it stops soon."""
    if event.data.noun == "task":
        desk.warn(tx, event.data.noun_id, event.data.due_at)


def on_auto_stop_due(tx: Transaction, event: AutoStopDue, *, desk: TaskDesk) -> None:
    """A task has run as long as it may; one that has ended meanwhile stays as it is."""
    if event.data.noun == "task":
        desk.stop_if_going(tx, event.data.noun_id, StopReason.AUTO_STOP)
