"""Dead letters for the operator: what a consumer gave up, shown, said once more, or dropped.

The kit lays them aside. Here the server's own advisories are turned into letters as well, for a consumer that died of a
message could say nothing. They may be of any project, so no role below operator learns even whether there are some.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query
from faststream.nats import NatsMessage
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import Field, ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.dead import DeadMessage, DeadPage, Dropped, Replayed
from finery_contracts.model import Record
from finery_contracts.streams import DEAD, Durable, consumer_of
from finery_kit.bus import subscribe_pull
from finery_kit.db import utc_now
from finery_kit.dead import DeadLetters, Given, lay_aside
from finery_kit.service import Service
from finery_studio.edge.auth import Gate
from finery_studio.edge.forward import carried_out
from finery_studio.edge.wishes import Wish


class Advisory(Record):
    """What nats-server says of a message that it will not deliver again."""

    type: str
    stream: str
    consumer: str
    stream_seq: int
    deliveries: int = Field(default=0)


def listen(service: Service) -> None:
    """Hear the server's advisories."""
    hear = partial(on_advisory, jetstream=lambda: service.jetstream)
    subscribe_pull(service.broker, DEAD.name, "$JS.EVENT.ADVISORY.CONSUMER.>", Durable.STUDIO_DEAD, hear)


async def on_advisory(body: bytes, msg: NatsMessage, *, jetstream: Callable[[], JetStreamContext]) -> None:
    """A letter for what nobody laid aside; one that is there already is not added again."""
    try:
        advisory = Advisory.model_validate_json(body)
    except ValidationError:
        advisory = None
    if advisory is not None and consumer_of(advisory.consumer) is not None:
        await lay_aside(jetstream(), await _given(jetstream(), advisory))
    await msg.ack()


def routes(gate: Gate, jetstream: Callable[[], JetStreamContext]) -> APIRouter:
    """``/api/v1/dead``."""
    router = APIRouter(prefix="/api/v1/dead", tags=["operations"])
    operator = Depends(gate.needs(Role.OPERATOR))
    wisher = gate.wishes(Role.OPERATOR)

    @router.get("")
    async def list_dead(
        _: Actor = operator,
        after: Annotated[int, Query(ge=0, description="cursor: the id of the last letter seen")] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
        durable: Annotated[str | None, Query(pattern=r"^[a-z][a-z-]{0,63}$", description="of this consumer")] = None,
    ) -> DeadPage:
        return await DeadLetters(jetstream()).list(after=after, limit=limit, durable=durable)

    @router.get("/{number}")
    async def show_dead(number: int, _: Actor = operator) -> DeadMessage:
        return await DeadLetters(jetstream()).show(number)

    @router.post("/{number}/replay")
    async def replay_dead(number: int, wish: Wish = wisher) -> Replayed:
        async def send() -> dict[str, Any]:
            return (await DeadLetters(jetstream()).replay(number)).model_dump(mode="json")

        return Replayed.model_validate(await carried_out(gate, wish, send))

    @router.delete("/{number}")
    async def drop_dead(number: int, _: Actor = operator) -> Dropped:
        await DeadLetters(jetstream()).drop(number)
        return Dropped(id=number)

    return router


async def _given(jetstream: JetStreamContext, advisory: Advisory) -> Given:
    reason = f"{advisory.consumer} said nothing after {advisory.deliveries} deliveries; it died of it, or was cut off"
    if advisory.type.endswith("terminated"):
        reason = f"{advisory.consumer} refused it for good"
    try:
        found = await jetstream.get_msg(advisory.stream, advisory.stream_seq, direct=True)
    except NotFoundError:
        return Given(
            advisory.consumer, advisory.stream, advisory.stream_seq, "", f"{reason}; the message itself is gone",
            advisory.deliveries, utc_now(), None,
        )  # fmt: skip
    first_at = found.time.astimezone(UTC) if found.time is not None else utc_now()
    return Given(
        advisory.consumer, advisory.stream, advisory.stream_seq, found.subject or "", reason, advisory.deliveries,
        first_at, found.data or b"", cast("dict[str, str]", found.headers or {}),
    )  # fmt: skip
