"""E-mail through the operator's relay (aiosmtplib): plain text, with the one-click unsubscribe of RFC 8058.

It refuses to speak to any other server than the one in the settings, and to log what it is told or its password.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Literal

import aiosmtplib

from finery_kit.db import utc_now
from finery_notifier.courier import Parcel
from finery_notifier.domain import Outcome

SIDE_BY_SIDE = 8
LONG_LINES = SMTP.clone(max_line_length=998)
"""RFC 5322's limit: with shorter lines a long link becomes an encoded word, which no mail program follows."""
GONE = {550, 551, 553}
"""RFC 5321 4.2.3, said of the recipient: there is no such mailbox, or mail for it is not taken."""
OURS = {530, 534, 535, 538, 554}
"""Said of who sends: the credential or the sender is wrong, which the operator can mend."""


@dataclass(frozen=True)
class Relay:
    """The operator's server."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


class SmtpMail:
    """One connection for each message: relays close idle ones, and a message is rare beside webhooks."""

    def __init__(self, relay: Relay, *, timeout_s: float) -> None:
        self._relay, self._timeout_s = relay, timeout_s
        self._places = asyncio.Semaphore(SIDE_BY_SIDE)

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once. 2xx is delivered, 4xx is tried again, 5xx is for good; no such mailbox ends the subscription."""
        began = time.monotonic()
        try:
            message = message_of(parcel, self._relay.sender)
            async with asyncio.timeout(self._timeout_s), self._places:
                outcome = await self._hand_over(message, parcel.url.removeprefix("mailto:"))
        except TimeoutError:
            outcome = Outcome(error=f"the relay took longer than {self._timeout_s:g} s")
        except (ValueError, MessageError) as fault:
            outcome = Outcome(error=f"this is no valid message: {type(fault).__name__}", permanent=True)
        return replace(outcome, duration_s=time.monotonic() - began)

    async def _hand_over(self, message: EmailMessage, recipient: str) -> Outcome:
        relay = self._relay
        client = aiosmtplib.SMTP(
            hostname=relay.host, port=relay.port, timeout=self._timeout_s, use_tls=relay.tls == "tls",
            start_tls=True if relay.tls == "starttls" else False if relay.tls == "none" else None,
            username=relay.user, password=relay.password,
        )  # fmt: skip
        recipient_refused = False
        try:
            async with client:
                try:
                    await client.sendmail(parseaddr(relay.sender)[1], [recipient], message.as_bytes())
                except aiosmtplib.SMTPRecipientsRefused as fault:
                    recipient_refused = True
                    raise fault.recipients[0] from fault
        except aiosmtplib.SMTPResponseException as fault:
            return _of_code(fault.code, of_recipient=recipient_refused)
        except (aiosmtplib.SMTPException, OSError) as fault:
            return Outcome(error=f"the relay cannot be reached: {type(fault).__name__}")
        return Outcome(status=250)


def message_of(parcel: Parcel, sender: str) -> EmailMessage:
    """The message; a header that could end early is refused by the policy.

    Raises:
        ValueError: a header would hold the end of a line.
    """
    message = EmailMessage(policy=LONG_LINES)
    message["From"] = sender
    message["To"] = parcel.url.removeprefix("mailto:")
    message["Subject"] = parcel.subject
    message["Date"] = format_datetime(utc_now())
    message["Message-ID"] = f"<{parcel.delivery}@{sender.rpartition('@')[2].rstrip('>')}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Finery-Event"] = parcel.event_id
    if parcel.unsubscribe_url:
        message["List-Unsubscribe"] = f"<{parcel.unsubscribe_url}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    text = parcel.body.decode()
    foot = f"\n-- \nNo more of these: {parcel.unsubscribe_url}\n" if parcel.unsubscribe_url else ""
    message.set_content(text + foot, cte="quoted-printable")
    return message


def _of_code(code: int, *, of_recipient: bool) -> Outcome:
    told = f"the relay answered {code}"
    if of_recipient and code in GONE:
        return Outcome(status=code, error=f"{told} to the recipient", gone=True)
    return Outcome(status=code, error=told, permanent=500 <= code < 600 and code not in OURS)
