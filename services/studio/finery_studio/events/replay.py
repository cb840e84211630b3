"""A project's past over NATS: a request on ``finery.replay.<project>`` is answered with a page of the event log.

Only the project's own credential may say that subject, and the answer goes to the project's own inbox or nowhere: it
refuses to be made to speak elsewhere.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import logging

from faststream.nats import NatsMessage
from pydantic import BaseModel, ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.errors import ErrorBody, FineryError
from finery_contracts.log import LogRequest
from finery_contracts.model import Record
from finery_contracts.permissions import inbox_of
from finery_kit.bus import Call, body_of_validation, raw_decoder
from finery_kit.db import Database
from finery_kit.service import Service
from finery_studio.events import handlers

log = logging.getLogger("finery.studio.replay")
SUBJECT = "finery.replay.*"


class ReplayRefused(Record):
    """Instead of a page: why there is none."""

    error: ErrorBody


def listen(service: Service, database: Database) -> None:
    """Several studios share the requests."""

    async def on_request(body: bytes, msg: NatsMessage) -> None:
        subject, reply = msg.raw_message.subject, msg.raw_message.reply
        project = subject.rsplit(".", 1)[-1]
        if not is_own_inbox(project, reply):
            log.warning("replay_not_answered", extra={"project": project, "reply": reply[:100]})
            return
        answer = await page_for(database, project, body)
        await service.client.publish(reply, answer.model_dump_json().encode())

    service.broker.subscriber(
        SUBJECT, queue=service.name, decoder=raw_decoder, title="studio.replay", no_reply=True
    )(on_request)  # fmt: skip


def is_own_inbox(project: str, reply: str) -> bool:
    """Whether an answer to this subject reaches the project and nobody else."""
    return reply.startswith(f"{inbox_of(project)}.") and not set(reply) & set("*> \t\r\n")


async def page_for(database: Database, project: str, body: bytes) -> BaseModel:
    """The page that was asked for; an empty request asks for the first one."""
    reader = Actor(project=project, project_name="", user="bus", key="", role=Role.READ)
    try:
        asked = LogRequest.model_validate_json(body or b"{}")
        return await handlers.on_events(database, Call(asked, reader, None))
    except ValidationError as fault:
        return ReplayRefused(error=body_of_validation(fault))
    except FineryError as fault:
        return ReplayRefused(error=fault.body)
