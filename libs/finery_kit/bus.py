"""A service's side of the bus: facts in, requests in and out. FastStream declares and runs it; pull subscribers only.

A handler of a fact is a plain function ``(transaction, event)``: the kit parses, deduplicates, commits and
acknowledges, once, here. It refuses to declare streams or consumers: ``bus_init`` does that.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import nats.errors
from faststream import AckPolicy
from faststream.exceptions import IncorrectState
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.client import Client
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ValidationError

from finery_contracts.access import Actor
from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody, FineryError, InvalidRequest, TooLarge, Unavailable, error_of
from finery_contracts.model import Record
from finery_contracts.permissions import inbox_of
from finery_contracts.registry import UnknownEventType, parse_said
from finery_contracts.streams import EVENTS, MAX_MESSAGE_BYTES, consumer_of, rpc_subject
from finery_kit.db import Database, Transaction
from finery_kit.dead import subject_of
from finery_kit.idempotency import Asked, digest_of
from finery_kit.inbox import first_sight
from finery_kit.redelivery import attend
from finery_kit.telemetry import current_traceparent, span_from

log = logging.getLogger("finery.bus")

B = TypeVar("B", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
FactRoutes = Mapping[type[Event], Callable[[Transaction, Any], None]]
PULL = PullSub(32, timeout=2)
RPC_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = MAX_MESSAGE_BYTES - 4096


class RpcRequest(Record):
    """The envelope of a request to a noun's owner."""

    actor: Actor | None = None
    idempotency_key: str | None = None
    digest: str | None = None
    body: Any = None


class RpcAnswer(Record):
    """Either ``body`` or ``error``."""

    body: Any = None
    status: int | None = None
    error: ErrorBody | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Call(Generic[B]):
    """A request as its handler sees it; ``digest`` tells it from others that come under the same key."""

    body: B
    actor: Actor | None
    idempotency_key: str | None
    digest: str | None = None

    @property
    def by(self) -> Actor:
        """The actor; requests of machines have none and must not come here."""
        if self.actor is None:
            raise InvalidRequest("this request needs an actor", code="actor_missing")
        return self.actor

    @property
    def asked(self) -> Asked | None:
        """The key it came under; for ``idempotency.once``."""
        if self.idempotency_key is None:
            return None
        digest = self.digest or digest_of(type(self.body).__name__, self.by.user, self.body.model_dump(mode="json"))
        return Asked(self.by.project, self.idempotency_key, digest)


@dataclass(frozen=True)
class Rpc:
    """One row of a service's RPC table."""

    body: type[BaseModel]
    handler: Callable[[Any], Awaitable[BaseModel | None]]


def make_broker(url: str, service: str) -> NatsBroker:
    """A connection that never gives up reconnecting."""

    async def on_error(fault: Exception) -> None:
        log.warning("bus_error", extra={"service": service, "error": repr(fault)})
        with contextlib.suppress(IncorrectState):  # it was never connected yet
            let_go(broker.connection)

    broker = NatsBroker(
        url, name=service, max_reconnect_attempts=-1, reconnect_time_wait=1, connect_timeout=5,
        error_cb=on_error, logger=None, graceful_timeout=10, inbox_prefix=inbox_prefix(url, service),
    )  # fmt: skip
    return broker


def let_go(client: Client) -> None:
    """nats-py keeps the socket of a connection that failed in its first words, and opens the next one beside it."""
    transport = client._transport  # pyright: ignore[reportPrivateUsage]
    if client.is_connecting and transport is not None:
        transport.close()


def listen_to_facts(
    broker: NatsBroker, service: str, durable: str, routes: FactRoutes, database: Database,
    *, after: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Attach a service's table of facts to its durable consumer. ``after`` runs when a change was committed."""

    async def on_fact(body: bytes, msg: NatsMessage) -> None:
        event = parse_or_none(body, subject_of(msg.raw_message))
        handler = routes.get(type(event)) if event is not None else None
        if event is None or handler is None:
            await msg.ack()
            return
        parent = (msg.headers or {}).get("traceparent") or event.traceparent
        with span_from(parent, service, f"process {event.type}", kind=SpanKind.CONSUMER, noun=event.subject):
            applied = await database.write(lambda tx: apply_once(tx, event, handler))
        await msg.ack()
        if applied and after is not None:
            after()

    subscribe_pull(broker, EVENTS.name, "finery.evt.>", durable, on_fact)


def subscribe_pull(
    broker: NatsBroker, stream: str, subject: str, durable: str, handler: Callable[..., Awaitable[None]]
) -> None:
    """A pull subscriber on a consumer that ``bus_init`` made; what raises is dealt with in ``redelivery``."""

    spec = consumer_of(durable)

    async def guarded(body: bytes, msg: NatsMessage) -> None:
        raw = msg.raw_message
        if spec is not None and not spec[1].hears(raw.subject):
            await raw.ack()
            return
        await attend(broker.connection, raw, durable, partial(handler, body, msg))

    broker.subscriber(
        subject, stream=JStream(stream, declare=False), durable=durable, pull_sub=PULL,
        ack_policy=AckPolicy.MANUAL, decoder=raw_decoder, title=durable,
        inbox_prefix=subscriber_inbox(broker),
    )(guarded)  # fmt: skip


def inbox_prefix(url: str, service: str = "local") -> bytes:
    """Where answers arrive: under the name of the user in the URL, and of the service where the bus knows no users."""
    return inbox_of(unquote(urlsplit(url).username or service)).encode()


def subscriber_inbox(broker: NatsBroker) -> bytes:
    """The same for a pull subscriber, which FastStream must be told by itself, and with the dot."""
    return bytes(broker._connection_kwargs["inbox_prefix"]) + b"."  # pyright: ignore[reportPrivateUsage]


async def raw_decoder(message: Any) -> bytes:
    """FastStream does not know our content type: hand the bytes on as they came."""
    return bytes(message.body)


def parse_or_none(body: bytes, subject: str = "") -> Event | None:
    """The event, or None for one of a newer peer."""
    try:
        return parse_said(subject, body)
    except UnknownEventType:
        return None


def apply_once(tx: Transaction, event: Event, handler: Callable[[Transaction, Any], None]) -> bool:
    """The inbox: the same fact twice changes nothing twice."""
    if not first_sight(tx, event):
        return False
    handler(tx, event)
    return True


def answer_requests(broker: NatsBroker, service: str, table: Mapping[str, Rpc], *, each: bool = False) -> None:
    """Attach a service's table of requests. Replicas share the work, unless ``each`` is to do it."""
    queue = "" if each else service
    for verb, row in table.items():
        broker.subscriber(rpc_subject(service, verb), queue=queue, decoder=raw_decoder, title=f"{service}.{verb}")(
            _answering(service, verb, row)
        )


def _answering(service: str, verb: str, row: Rpc) -> Callable[..., Awaitable[bytes]]:
    async def answer(body: bytes, msg: NatsMessage) -> bytes:
        parent = (msg.headers or {}).get("traceparent")
        quiet = parent is None
        try:
            request = RpcRequest.model_validate_json(body)
            asked = row.body.model_validate(request.body or {})
            call = Call(asked, request.actor, request.idempotency_key, request.digest)
            if quiet:  # heartbeats and the like: no cause, no trace
                found = await row.handler(call)
            else:
                with span_from(parent, service, f"{service}.{verb}", kind=SpanKind.SERVER):
                    found = await row.handler(call)
            reply = RpcAnswer(body=found.model_dump(mode="json") if found is not None else None)
        except ValidationError as fault:
            reply = RpcAnswer(status=400, error=body_of_validation(fault))
        except FineryError as fault:
            reply = RpcAnswer(status=fault.status, error=fault.body, retry_after_s=fault.retry_after_s)
        except Exception:
            log.exception("rpc_failed", extra={"service": service, "verb": verb})
            reply = RpcAnswer(status=500, error=FineryError().body)
        told = reply.model_dump_json().encode()
        if len(told) > MAX_ANSWER_BYTES:
            log.error("rpc_answer_too_large", extra={"service": service, "verb": verb, "size_bytes": len(told)})
            fault = TooLarge(
                f"the answer of {service}.{verb} has {len(told):,} bytes, more than a message may; ask for less",
                code="answer_too_large",
            )
            told = RpcAnswer(status=fault.status, error=fault.body).model_dump_json().encode()
        return told

    return answer


async def ask(
    client: Client, owner: str, verb: str, body: BaseModel | None, answer: type[R],
    *, actor: Actor | None = None, idempotency_key: str | None = None, digest: str | None = None,
    timeout_s: float = RPC_TIMEOUT_S, traced: bool = True,
) -> R:  # fmt: skip
    """Ask the owner of a noun. ``traced`` off: for what has no cause, such as heartbeats.

    Raises:
        FineryError: what the owner answered.
        TooLarge: the bus takes no request of this size.
        Unavailable: no owner is there, or none answered in time.
    """
    request = RpcRequest(
        actor=actor, idempotency_key=idempotency_key, digest=digest,
        body=body.model_dump(mode="json") if body is not None else None,
    )  # fmt: skip
    parent = current_traceparent() if traced else None
    try:
        message = await client.request(
            rpc_subject(owner, verb), request.model_dump_json().encode(), timeout=timeout_s,
            headers={"traceparent": parent} if parent else None,
        )  # fmt: skip
    except nats.errors.MaxPayloadError as fault:
        raise TooLarge("the request is larger than a message may be (1 MiB); shorten its longest field") from fault
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError, nats.errors.ConnectionClosedError) as fault:
        raise Unavailable(f"{owner} does not answer at the moment; try again in a few seconds") from fault
    reply = RpcAnswer.model_validate_json(message.data)
    if reply.error is not None:
        raise error_of(reply.status or 500, reply.error, retry_after_s=reply.retry_after_s)
    return answer.model_validate(reply.body)


def body_of_validation(fault: ValidationError) -> ErrorBody:
    """All faults of a request at once, each with its place."""
    return body_of_faults(fault.errors(include_url=False, include_context=False, include_input=False))


def body_of_faults(faults: Iterable[Mapping[str, Any]], *, skip: tuple[str, ...] = ()) -> ErrorBody:
    """Pydantic's faults in our words; ``skip`` are outer places that say nothing to the caller."""
    details = [
        {
            "param": ".".join(str(part) for part in fault["loc"] if part not in skip) or None,
            "message": "there is no such parameter"
            if fault["type"] == "extra_forbidden"
            else fault["msg"].removeprefix("Value error, "),
            "code": fault["type"],
        }
        for fault in faults
    ]
    named = "; ".join(f"{d['param']}: {d['message']}" if d["param"] else str(d["message"]) for d in details)
    code = "unknown_parameter" if any(d["code"] == "extra_forbidden" for d in details) else "invalid_request"
    return ErrorBody(
        code=code, message=f"the request is not valid: {named}", param=details[0]["param"], details=details
    )
