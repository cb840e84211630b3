"""Upstream events that create work: by NATS, each once, refused ones answered with the reason as a fact."""

from __future__ import annotations

from pydantic import ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.errors import FineryError, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.inbound import TASK_REQUESTED, InboundEvent, InboundRefused, Refusal
from finery_kit.db import Transaction
from finery_kit.delivery import InboxRow, emit
from finery_studio.edge.answers import invalid
from finery_studio.projects.store import ProjectRow
from finery_studio.tasks.http import TaskRoutes, make_task


def on_inbound(tx: Transaction, project: str, event: InboundEvent, desk: TaskRoutes) -> None:
    """Make what is asked for; the same event again changes nothing."""
    key = ("inbound", f"{project}/{event.source}/{event.id}", 1)
    if tx.session.get(InboxRow, key) is not None:
        return
    tx.session.add(InboxRow(noun=key[0], noun_id=key[1], version=key[2]))
    row = tx.session.get(ProjectRow, project)
    if row is None:
        return
    actor = Actor(project=project, project_name=row.name, user=f"event:{event.source}"[:64], key="", role=Role.COMMON)
    try:
        if event.type != TASK_REQUESTED:
            raise InvalidRequest(
                f"events of type {event.type} create nothing; use {TASK_REQUESTED}", code="type_unknown"
            )
        with tx.session.begin_nested():
            make_task(desk, tx, event.data, actor)
    except ValidationError as fault:
        _refuse(tx, project, event, invalid(fault))
    except FineryError as fault:
        _refuse(tx, project, event, fault)


def _refuse(tx: Transaction, project: str, event: InboundEvent, fault: FineryError) -> None:
    refusal = Refusal(id=event.id, source=event.source, type=event.type, error=fault.body)
    emit(tx, InboundRefused, new_id("inb"), project=project, version=1, data=refusal)
