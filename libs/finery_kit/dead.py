"""Dead letters on the bus: laid aside once each, listed, shown, replayed to the one consumer that gave up, dropped.

The truth is the stream DEAD itself. It refuses to guess: a message whose bytes are gone is listed, and says so.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote, unquote

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, RawStreamMsg
from nats.js.errors import APIError, NotFoundError
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from finery_contracts.dead import DeadHeader, DeadLetter, DeadMessage, DeadPage, Replayed
from finery_contracts.errors import Conflict, FineryError, NotFound, Unavailable
from finery_contracts.streams import DEAD, INBOUND, MAX_MESSAGE_BYTES, consumer_of, dead_subject, redo_subject
from finery_kit.db import utc_now
from finery_kit.logs import without_secrets

MAX_REASON = 600
CONTENT_HEADERS = ("content-type", "traceparent")
MARGIN_BYTES = 256
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what may stand in a header as it is
NO_BODY = "gone"
BODY_IN_STREAM = "in-stream"


@dataclass(frozen=True)
class Given:
    """A message that was given up, on its way to the dead letters."""

    durable: str
    stream: str
    seq: int
    subject: str
    reason: str
    deliveries: int
    first_at: datetime
    body: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, message: Msg, durable: str, subject: str, reason: str) -> Given:
        """A message that is at hand."""
        meta = message.metadata
        return cls(
            durable, meta.stream, meta.sequence.stream, subject, reason, meta.num_delivered,
            meta.timestamp.astimezone(UTC), message.data, headers_of(message),
        )  # fmt: skip

    @property
    def key(self) -> str:
        """The same for the consumer's own word and for the server's advisory; another one after a stream was lost."""
        digest = hashlib.sha256(self.body or b"").hexdigest()[:16]
        return f"dead:{self.durable}:{self.stream}:{self.seq}:{digest}"


def subject_of(message: Msg) -> str:
    """Where it was said first: a replay keeps that in a header, which nobody but an operator can write."""
    said = headers_of(message).get(DeadHeader.SUBJECT)
    if said is not None and message.subject.startswith(redo_subject("")):
        return unquote(said)
    return message.subject


async def lay_aside(jetstream: JetStreamContext, given: Given) -> None:
    """Put it into DEAD, once however often this is called. Raises what the bus raises."""
    headers = {name: given.headers[name] for name in CONTENT_HEADERS if given.headers.get(name)} | {
        Header.MSG_ID: given.key,
        DeadHeader.REASON: _header(given.reason or "no reason was given"),
        DeadHeader.DURABLE: given.durable,
        DeadHeader.STREAM: given.stream,
        DeadHeader.SEQ: str(given.seq),
        DeadHeader.SUBJECT: _header(given.subject),
        DeadHeader.DELIVERIES: str(given.deliveries),
        DeadHeader.FIRST_AT: given.first_at.isoformat(),
        DeadHeader.LAST_AT: utc_now().isoformat(),
    }
    if given.body is None:
        headers[DeadHeader.BODY] = NO_BODY
    body = given.body or b""
    if (
        len(body) + sum(len(name) + len(value) + 4 for name, value in headers.items())
        > MAX_MESSAGE_BYTES - MARGIN_BYTES
    ):
        # With our headers it is too large for a message: it stays where it is, and is read there.
        headers[DeadHeader.BODY], body = BODY_IN_STREAM, b""
    await jetstream.publish(dead_subject(given.durable), body, stream=DEAD.name, headers=headers, timeout=5)


def reason_of(fault: BaseException) -> str:
    """An error's type and words, without secrets, values that were sent, or statements of SQL."""
    if isinstance(fault, ValidationError):
        faults = fault.errors(include_url=False, include_context=False, include_input=False)
        words = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults[:5])
        return without_secrets(f"{fault.title} is not valid: {words}")[:MAX_REASON]
    if isinstance(fault, SQLAlchemyError):
        said = str(getattr(fault, "orig", None) or "").split("\n")[0]
        return without_secrets(f"{type(fault).__name__}: {said}")[:MAX_REASON]
    words = f"{fault.error_code}: {fault.message}" if isinstance(fault, FineryError) else str(fault)
    return without_secrets(f"{type(fault).__name__}: {words}")[:MAX_REASON]


@dataclass(frozen=True)
class DeadLetters:
    """The operator's hand on the stream DEAD."""

    jetstream: JetStreamContext

    async def list(self, *, after: int = 0, limit: int = 100, durable: str | None = None) -> DeadPage:
        """Oldest first, from a place on."""
        found: list[DeadLetter] = []
        place = after
        subject = dead_subject(durable or "*")
        while len(found) <= limit:
            message = await self._next(place + 1, subject)
            if message is None or message.seq is None:
                break
            place = message.seq
            found.append(_letter(message))
        shown = found[:limit]
        return DeadPage(data=shown, next=shown[-1].id if shown else after, has_more=len(found) > limit)

    async def show(self, number: int) -> DeadMessage:
        """One, whole.

        Raises:
            NotFound: there is none of this number.
        """
        message = await self._get(number)
        body = await self._body(message)
        own = {name: value for name, value in headers_of(message).items() if name in CONTENT_HEADERS}
        text = (body or b"").decode(errors="backslashreplace")
        return DeadMessage(**_letter(message).model_dump(), headers=own, body=text)

    async def replay(self, number: int) -> Replayed:
        """Say it once more to the consumer that gave it up, then take it off the list.

        Raises:
            NotFound: there is none of this number.
            Conflict: its bytes, or its consumer, are gone.
            Unavailable: the bus did not take it; it stays on the list.
        """
        message = await self._get(number)
        letter, body = _letter(message), await self._body(message)
        target = consumer_of(letter.durable)
        if body is None or target is None:
            missing = "bytes of this message are" if body is None else f"consumer {letter.durable} is"
            raise Conflict(f"the {missing} gone, so there is nothing to replay; drop it", code="dead_letter_empty")
        own = {name: value for name, value in headers_of(message).items() if name in CONTENT_HEADERS}
        key = headers_of(message).get(Header.MSG_ID, "")
        headers = own | {
            Header.MSG_ID: f"redo:{number}:{key}",
            DeadHeader.SUBJECT: _header(letter.subject),
        }
        await self._say(target[0].name, redo_subject(letter.durable), body, headers)
        await self._remove(number)
        return Replayed(id=number, durable=letter.durable, subject=letter.subject)

    async def drop(self, number: int) -> None:
        """Take it off the list for good.

        Raises:
            NotFound: there is none of this number.
        """
        await self._get(number)
        await self._remove(number)

    async def _say(self, stream: str, subject: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            if stream != INBOUND.name:
                await self.jetstream.publish(subject, body, stream=stream, headers=headers, timeout=5)
                return
            # That stream acknowledges to nobody (see bus_init): look whether it is there.
            await self.jetstream._nc.publish(subject, body, headers=headers)  # pyright: ignore[reportPrivateUsage]
            for _ in range(50):
                with_id = await self._last(stream, subject)
                if with_id == headers[Header.MSG_ID]:
                    return
                await asyncio.sleep(0.05)
        except (nats.errors.Error, APIError, TimeoutError) as fault:
            raise Unavailable("the bus does not take the message now; it is still on the list") from fault
        raise Unavailable("the bus did not store the message; it is still on the list")

    async def _last(self, stream: str, subject: str) -> str | None:
        try:
            message = await self.jetstream.get_msg(stream, subject=subject, direct=True)
        except NotFoundError:
            return None
        return headers_of(message).get(Header.MSG_ID)

    async def _get(self, number: int) -> RawStreamMsg:
        message = await self._next(number, dead_subject("*")) if number > 0 else None
        if message is None or message.seq != number:
            raise NotFound(f"there is no dead letter {number}; list with: finery events dead list")
        return message

    async def _next(self, seq: int, subject: str) -> RawStreamMsg | None:
        try:
            return await self.jetstream.get_msg(DEAD.name, seq, subject=subject, direct=True, next=True)
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as fault:
            raise Unavailable("the bus does not answer at the moment; try again in a few seconds") from fault

    async def _body(self, message: RawStreamMsg) -> bytes | None:
        kind = headers_of(message).get(DeadHeader.BODY)
        if kind is None:
            return message.data or b""
        letter = _letter(message)
        if kind != BODY_IN_STREAM:
            return None
        try:
            found = await self.jetstream.get_msg(letter.stream, letter.seq, direct=True)
        except NotFoundError:
            return None
        return found.data or b""

    async def _remove(self, number: int) -> None:
        try:
            await self.jetstream.delete_msg(DEAD.name, number)
        except NotFoundError:
            return
        except APIError as fault:
            if fault.err_code != _NO_SUCH_MESSAGE:
                raise


_NO_SUCH_MESSAGE = 10043  # two hands took it at the same moment


def _letter(message: RawStreamMsg) -> DeadLetter:
    told = headers_of(message)
    return DeadLetter(
        id=message.seq or 0, durable=told[DeadHeader.DURABLE], reason=unquote(told.get(DeadHeader.REASON, "")),
        stream=told[DeadHeader.STREAM], seq=int(told[DeadHeader.SEQ]), subject=unquote(told[DeadHeader.SUBJECT]),
        deliveries=int(told[DeadHeader.DELIVERIES]), first_at=datetime.fromisoformat(told[DeadHeader.FIRST_AT]),
        last_at=datetime.fromisoformat(told[DeadHeader.LAST_AT]), size_bytes=len(message.data or b""),
    )  # fmt: skip


def headers_of(message: Msg | RawStreamMsg) -> dict[str, str]:
    """The headers, which nats-py leaves untyped and may leave out."""
    return cast("dict[str, str]", message.headers or {})


def _header(text: str) -> str:
    """One line of ASCII; everything else as in a URL."""
    return quote(re.sub(r"\s+", " ", text), safe=_PLAIN)
