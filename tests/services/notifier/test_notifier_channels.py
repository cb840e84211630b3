"""Other ways than webhooks: e-mail through a real SMTP server, and places that the operator declared."""

import asyncio
import contextlib
import email
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from notifier_rig import Rig, notifier_rig, succeeded

from finery_contracts.errors import Conflict, InvalidRequest, NotFound
from finery_contracts.notification_requests import (
    ConfirmRequest,
    SubscriptionCommand,
    SubscriptionRequest,
    UnsubscribeRequest,
)
from finery_contracts.notifications import SubscriptionView, Template
from finery_kit.ports import free_port
from finery_kit.settings import SettingsError, load
from finery_kit.testing import VirtualClock
from finery_notifier import channels
from finery_notifier.adapters import Ways
from finery_notifier.addresses import plain_address
from finery_notifier.channels import DeclaredChannels
from finery_notifier.settings import NotifierSettings
from finery_notifier.smtp import Relay, SmtpMail


class Mailbox:
    """An SMTP server that takes everything, or answers as told."""

    def __init__(self) -> None:
        self.letters: list[email.message.Message] = []
        self.to: list[str] = []
        self.rcpt_answers: list[str] = []
        self.data_answers: list[str] = []

    async def handle_RCPT(  # noqa: N802 - the server looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.rcpt_answers:
            return self.rcpt_answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        if self.data_answers:
            return self.data_answers.pop(0)
        self.letters.append(email.message_from_bytes(envelope.content or b""))
        self.to += envelope.rcpt_tos
        return "250 OK"

    def text(self, place: int = -1) -> str:
        return self.letters[place].get_payload(decode=True).decode()  # type: ignore[union-attr]

    def token(self) -> str:
        return re.findall(r"/confirm/(\S+)", self.text())[0]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def rig(tmp_path: Path, service_database: str, mailbox: Mailbox) -> AsyncIterator[Rig]:
    async with mail_rig(tmp_path, mailbox) as made:
        await made.topic("ops")
        yield made


@contextlib.asynccontextmanager
async def mail_rig(folder: Path, mailbox: Mailbox) -> AsyncIterator[Rig]:
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        relay = Relay("127.0.0.1", port, "none", "Finery <finery@house.example>")
        declared = DeclaredChannels({"chat": "json://127.0.0.1:9/"}, timeout_s=5)
        mail = Ways({"email": SmtpMail(relay, timeout_s=5), "channel": declared})
        async with notifier_rig(folder, VirtualClock(), mail=mail, email=True, channels={"chat"}) as made:
            yield made
        await declared.close()
    finally:
        controller.stop()


async def subscribe(rig: Rig, address: str = "ann@example.com", **more) -> SubscriptionView:
    wanted = SubscriptionRequest(topic="ops", kind="email", email=address, **more)
    made = await rig.ask("subscription.create", wanted)
    await rig.deliver()
    return made


async def listener(rig: Rig, mailbox: Mailbox, **more) -> SubscriptionView:
    made = await subscribe(rig, **more)
    await rig.ask("subscription.confirm", ConfirmRequest(token=mailbox.token()))
    return made


async def test_an_address_is_asked_first_and_hears_in_plain_words_afterwards(rig: Rig, mailbox: Mailbox):
    made = await subscribe(rig)
    await rig.hear(succeeded(rig))
    await rig.deliver()
    assert [letter["Subject"] for letter in mailbox.letters] == ["[Finery] confirm your subscription"]

    await rig.ask("subscription.confirm", ConfirmRequest(token=mailbox.token()))
    event = succeeded(rig)
    await rig.hear(event)
    await rig.deliver()

    letter = mailbox.letters[-1]
    assert (made.url, made.secret) == ("mailto:ann@example.com", None)
    assert mailbox.to == ["ann@example.com"] * 2
    assert letter["Subject"] == "[Finery] task n: succeeded"
    assert event.noun_id in mailbox.text()
    assert letter["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert letter["List-Unsubscribe"].startswith("<https://finery.example/unsubscribe/sub_")
    [delivery] = await rig.deliveries(made.id)
    assert (delivery.state, delivery.last_status) == ("delivered", 250)


async def test_one_click_unsubscribes_for_good(rig: Rig, mailbox: Mailbox):
    made = await listener(rig, mailbox)
    await rig.hear(succeeded(rig))
    await rig.deliver()
    token = mailbox.letters[-1]["List-Unsubscribe"].strip("<>").rsplit("/", 1)[1]
    asked = UnsubscribeRequest(token=token)

    before = await rig.ask("subscription.unsubscribing", asked)
    first = await rig.ask("subscription.unsubscribe", asked)
    second = await rig.ask("subscription.unsubscribe", asked)
    await rig.hear(succeeded(rig))
    await rig.deliver()

    assert (before.state, first.state, second.state) == ("confirmed", "unsubscribed", "unsubscribed")
    assert len(mailbox.letters) == 2
    assert (await rig.said()).count("io.finery.notification.subscription_ended.v1") == 1
    for verb in ("subscription.enable",):
        with pytest.raises(Conflict):
            await rig.ask(verb, SubscriptionCommand(subscription=made.id))


@pytest.mark.parametrize("forge", [lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"), lambda t: t.split(".")[0],
                                   lambda t: "sub_x." + t.split(".")[1], lambda _: "."])  # fmt: skip
async def test_a_forged_link_unsubscribes_nobody(rig: Rig, mailbox: Mailbox, forge):
    made = await listener(rig, mailbox)
    token = re.findall(r"/unsubscribe/(\S+)", mailbox.text())[0]

    for verb in ("subscription.unsubscribe", "subscription.unsubscribing"):
        with pytest.raises(NotFound):
            await rig.ask(verb, UnsubscribeRequest(token=forge(token)))

    view = await rig.ask("subscription.get", SubscriptionCommand(subscription=made.id))
    assert view.state == "confirmed"


@pytest.mark.parametrize(
    ("rcpt", "data", "state", "subscription"),
    [
        (["450 later"], [], "waiting", "confirmed"),
        ([], ["451 later"], "waiting", "confirmed"),
        ([], ["552 too big"], "dead", "confirmed"),
        (["550 no such user"], [], "dead", "disabled"),
        (["554 blocked"], [], "waiting", "confirmed"),
    ],
)
async def test_what_the_relay_says_decides(rig: Rig, mailbox: Mailbox, rcpt, data, state, subscription):
    made = await listener(rig, mailbox)
    mailbox.rcpt_answers, mailbox.data_answers = list(rcpt), list(data)
    await rig.hear(succeeded(rig))
    await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    view = await rig.ask("subscription.get", SubscriptionCommand(subscription=made.id))
    assert (delivery.state, view.state) == (state, subscription)


async def test_no_value_of_an_event_becomes_a_header(rig: Rig, mailbox: Mailbox):
    await listener(rig, mailbox, template=Template(subject="{{ data.name }} {{data.kind}}" + "é" * 400, body="hi"))
    event = succeeded(rig)
    name = "x\r\nBcc: eve@example.com\n\nbody"
    await rig.hear(event.model_copy(update={"data": event.data.model_copy(update={"name": name})}))
    await rig.deliver()

    letter = mailbox.letters[-1]
    subject = str(email.header.make_header(email.header.decode_header(letter["Subject"])))
    assert letter["Bcc"] is None
    assert subject.startswith("x Bcc: eve@example.com body tune")
    assert len(subject.encode()) <= 512
    assert mailbox.to == ["ann@example.com"] * 2


@pytest.mark.parametrize(
    "address",
    ["", "ann", "@example.com", *("ann@bücher.example", "ann@x.example\n"), "ann@", "ann@localhost",
     "ann@example", "ann@[127.0.0.1]",
     "ann@127.0.0.1", "a b@x.example",
     "ann@example.com\r\nBcc: eve@x.example", "ann@example.com,eve@x.example",
     '"ann"@example.com', "Ann <ann@x.example>",
     "ann@-x.example", "ann@x..example", ".ann@x.example", "ann.@x.example", "a..b@x.example",
     "a" * 65 + "@x.example", "ann@" + "a" * 64 + ".example", "ann(x)@x.example", "a@b@c.example",
     "ann%x@x.example", "ann@x.example."],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(address: str):
    with pytest.raises(InvalidRequest) as refused:
        plain_address(address)

    assert refused.value.error_code == "email_invalid"


@pytest.mark.parametrize("address", ["ann@example.com", "ann.b+c@Mail.Example.CO.uk", "o'neill@xn--bcher-kva.example"])
def test_plain_addresses_pass(address: str):
    assert plain_address(address).lower() == address.lower()


async def test_a_declared_channel_is_asked_too_and_hangs_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    sent: list[tuple[str, str]] = []

    def take(_url: str, title: str, body: str) -> bool:
        sent.append((title, body))
        return True

    monkeypatch.setattr(channels, "_notify", take)
    made = await rig.ask("subscription.create", SubscriptionRequest(topic="ops", kind="channel", channel="chat"))
    await rig.deliver()
    token = re.findall(r"/confirm/(\S+)", sent[0][1])[0]
    await rig.ask("subscription.confirm", ConfirmRequest(token=token))
    await rig.hear(succeeded(rig))
    await rig.deliver()

    assert made.url == "channel:chat"
    assert [title for title, _ in sent] == ["[Finery] confirm your subscription", "[Finery] task n: succeeded"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that its plugins load
async def test_apprise_itself_says_no_where_nobody_listens():
    declared = DeclaredChannels({"chat": "json://127.0.0.1:9/"}, timeout_s=10)

    assert not await asyncio.to_thread(channels._notify, "json://127.0.0.1:9/", "t", "b")
    assert channels.is_channel_url("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops")
    await declared.close()


async def test_a_channel_or_relay_that_nobody_declared_is_refused(tmp_path: Path):
    async with notifier_rig(tmp_path, VirtualClock()) as rig:
        await rig.topic("ops")
        for wanted, code in (
            (SubscriptionRequest(topic="ops", kind="channel", channel="json"), "channel_unknown"),
            (SubscriptionRequest(topic="ops", kind="email", email="a@b.example"), "email_not_configured"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await rig.ask("subscription.create", wanted)
            assert refused.value.error_code == code


@pytest.mark.parametrize(
    "values",
    [
        {"smtp_host": "mail.example"},
        {"smtp_host": "mail.example", "smtp_from": "a@b.example\nBcc: x"},
        {"smtp_host": "m.example", "smtp_from": "a@b.example", "smtp_user": "u", "smtp_tls": "none"},
    ],
)
def test_half_a_relay_stops_the_start(values: dict):
    with pytest.raises(SettingsError, match="FINERY_SMTP"):
        load(NotifierSettings, **values)


def test_the_password_is_in_no_text():
    settings = load(NotifierSettings, smtp_host="m.example", smtp_from="a@b.example", smtp_password="hunter2")
    relay = Relay("m.example", 587, "tls", "a@b.example", "u", "hunter2")

    assert "hunter2" not in repr(settings) + str(settings) + repr(relay)
