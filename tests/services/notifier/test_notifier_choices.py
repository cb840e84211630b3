"""What a subscription may choose: filters, order, templates, the past; and what is counted for billing."""

import asyncio
import json
from datetime import timedelta

import pytest
from aiohttp import web
from notifier_rig import Rig, Sink, succeeded

from finery_contracts.access import Actor
from finery_contracts.envelope import Event
from finery_contracts.errors import InvalidRequest
from finery_contracts.log import LoggedEvent, LogPage, LogRequest
from finery_contracts.notification_requests import BackfillRequest, ConfirmRequest, SubscriptionRequest
from finery_contracts.notifications import NotificationMetered, SubscriptionView, Template
from finery_contracts.registry import parse_event
from finery_kit.delivery import OutboxRow
from finery_notifier import letters, metering
from finery_notifier.app import ROUTES, forget_old
from finery_notifier.backfill import Backfill
from finery_notifier.filters import check_filter, fits
from finery_notifier.store import select

FIELDS = {"kind", "name", "metadata", "instances", "waits_for"}


async def subscribe(rig: Rig, sink: Sink, **more) -> SubscriptionView:
    made = await rig.ask("subscription.create", SubscriptionRequest(topic="ops", url=sink.url, **more))
    await rig.deliver()
    await rig.ask("subscription.confirm", ConfirmRequest(token=sink.posts[-1].json["data"]["token"]))
    return made


def named(rig: Rig, name: str, *, event: Event | None = None, version: int = 3, **more) -> Event:
    made = event or succeeded(rig)
    data = made.data.model_copy(update={"name": name, "version": version, **more})
    return made.model_copy(update={"data": data, "id": f"evt_{name}_{version}", "nounversion": version})


@pytest.mark.parametrize(
    ("wanted", "hears"),
    [
        ({}, True),
        ({"kind": "tune"}, True),
        ({"kind": ["evaluate", "tune"], "name": "nightly-*"}, True),
        ({"name": "*-*-2"}, True),
        ({"name": "nightly"}, False),
        ({"name": "*weekly*"}, False),
        ({"metadata.team": "a"}, True),
        ({"metadata.team": ["b", "c"]}, False),
        ({"metadata.nobody": "*"}, False),
        ({"instances": "1"}, True),
        ({"waits_for": "task_2"}, True),
        ({"kind": "tune", "metadata.team": "b"}, False),
        ({"metadata": "*"}, False),
    ],
)
def test_a_filter_fits_when_every_field_does(rig_free_event: Event, wanted: dict, hears: bool):
    check_filter(wanted, FIELDS)

    assert fits(wanted, rig_free_event.data) is hears


@pytest.fixture
def rig_free_event() -> Event:
    from datetime import UTC, datetime

    from notifier_rig import fact

    from finery_contracts.tasks import TaskSucceeded

    made = fact(TaskSucceeded, at=datetime(2026, 1, 1, tzinfo=UTC))
    more = {"name": "nightly-run-2", "metadata": {"team": "a"}, "waits_for": ["task_1", "task_2"]}
    return made.model_copy(update={"data": made.data.model_copy(update=more)})


@pytest.mark.parametrize(
    "wanted",
    [{"kid": "tune"}, {"name": []}, {"name": "x" * 300}, {"name": "*****"}, {"a b": "x"}, {"": "x"}, {"name.": "x"},
     {"__class__": "x"}, {f"metadata.k{n}": "x" for n in range(17)}, {"metadata" + ".a" * 9: "x"}],
)  # fmt: skip
def test_a_filter_that_cannot_match_or_would_cost_is_refused(wanted: dict):
    with pytest.raises(InvalidRequest) as refused:
        check_filter(wanted, FIELDS)

    assert refused.value.error_code == "filter_invalid"


async def test_only_what_fits_is_sent(rig: Rig, sink: Sink):
    await rig.topic("ops")
    await subscribe(rig, sink, filter={"name": ["nightly-*"]})

    for name in ("nightly-1", "weekly", "nightly-2"):
        await rig.hear(named(rig, name))
    await rig.deliver()

    assert sorted(heard.json["data"]["name"] for heard in sink.facts) == ["nightly-1", "nightly-2"]


async def test_in_order_the_next_fact_of_a_thing_waits_for_the_one_before(rig: Rig, sink: Sink):
    await rig.topic("ops")
    await subscribe(rig, sink, ordered=True)
    sink.answers = [web.Response(status=500)]
    task = succeeded(rig)
    for version in (5, 3, 4):
        await rig.hear(named(rig, "a", event=task, version=version))
    await rig.deliver()
    await rig.deliver()
    assert [heard.json["nounversion"] for heard in sink.facts] == [3]

    await rig.hear(named(rig, "b"))
    await rig.deliver()
    rig.clock.advance(6)
    for _ in range(3):
        await rig.deliver()

    told = [(heard.json["data"]["name"], heard.json["nounversion"]) for heard in sink.facts]
    assert told == [("a", 3), ("b", 3), ("a", 3), ("a", 4), ("a", 5)]


async def test_a_template_says_how_a_webhook_reads(rig: Rig, sink: Sink):
    await rig.topic("ops")
    places = {"text": "{{data.name}} is {{ data.state }}", "team": "{{data.metadata}}", "n": "{{nounversion}}"}
    body = json.dumps(places)
    made = await subscribe(rig, sink, template=Template(body=body, format="json"))
    await rig.hear(named(rig, 'q"uote', metadata={"team": "a"}))
    await rig.deliver()

    heard = sink.posts[-1]
    assert heard.json == {"text": 'q"uote is succeeded', "team": {"team": "a"}, "n": 3}
    assert heard.headers["Content-Type"] == "application/json"
    assert made.template.format == "json"


@pytest.mark.parametrize(
    "template",
    [
        Template(body="{% for x in data %}{{ x }}{% endfor %}"), Template(body="{{ data.name | upper }}"),
        Template(body="{{ ''.__class__ }}"), Template(body="{{ self }}"), Template(body="{{ data.name"),
        Template(body="{{ data['name'] }}"), Template(body="{{}}"), Template(body="{{ nobody }}"),
        Template(body="no json", format="json"), Template(body="[" * 8000, format="json"),
        Template(body="{{id}}" * 101), Template(subject="{{ 7*7 }}"),
    ],
)  # fmt: skip
def test_a_template_with_logic_or_without_sense_is_refused(template: Template):
    with pytest.raises(InvalidRequest) as refused:
        letters.check_template(template)

    assert refused.value.error_code == "template_invalid"


def test_a_template_that_would_blow_up_stops_at_the_limit(rig_free_event: Event):
    big = rig_free_event.data.model_copy(update={"description": "x" * 200_000})
    event = rig_free_event.model_copy(update={"data": big})
    template = Template(body="{{data}}" * 100)

    letters.check_template(template)
    with pytest.raises(letters.TooLong):
        letters.letter_of(event, b"", "webhook", template)


async def test_the_past_is_sent_once_after_the_confirmation_and_only_what_is_wanted(rig: Rig, sink: Sink):
    await rig.topic("ops")
    since = rig.clock.now
    past = [named(rig, f"p{n}") for n in range(5)]
    rig.clock.advance(60)
    wanted = SubscriptionRequest(topic="ops", url=sink.url, backfill_since=since, filter={"name": "p*"})
    made = await rig.ask("subscription.create", wanted)
    live = named(rig, "p9")
    other = named(rig, "other")
    log = [*past, other, live]
    asked: list[tuple[LogRequest, Actor]] = []

    async def read_log(request: LogRequest, actor: Actor) -> LogPage:
        asked.append((request, actor))
        rows = [LoggedEvent(seq=n + 1, event=json.loads(e.model_dump_json())) for n, e in enumerate(log)]
        page = [row for row in rows if row.seq > request.after][:2]
        return LogPage(data=page, next=page[-1].seq, has_more=page[-1].seq < len(log))

    backfill = Backfill(rig.database, read_log, ROUTES, wake_courier=lambda: None)
    assert await backfill.fetch_pages() is False
    await rig.deliver()
    assert asked == []

    await rig.ask("subscription.confirm", ConfirmRequest(token=sink.posts[-1].json["data"]["token"]))
    await rig.hear(live)
    while await backfill.fetch_pages():
        pass
    while len(sink.facts) < 6:
        await rig.deliver()
    view = await rig.ask("subscription.backfill", BackfillRequest(subscription=made.id, since=since))
    while await backfill.fetch_pages():
        pass
    await rig.deliver()

    assert sorted(heard.json["data"]["name"] for heard in sink.facts) == ["p0", "p1", "p2", "p3", "p4", "p9"]
    assert {(request.since, actor.project) for request, actor in asked} == {(since, "proj_1")}
    assert view.backfill == "running"


async def test_what_was_delivered_is_said_once_for_each_hour(rig: Rig, sink: Sink):
    await rig.topic("ops")
    await subscribe(rig, sink)
    for _ in range(3):
        await rig.hear(succeeded(rig))
    await rig.deliver()
    early = await rig.database.write(metering.say_closed)
    rig.clock.advance(3700)
    first, second = await rig.database.write(metering.say_closed), await rig.database.write(metering.say_closed)

    rows = await rig.database.read(lambda session: list(session.exec(select(OutboxRow))))
    [event] = [parse_event(row.body) for row in rows if "metered" in row.type]
    assert (early, first, second) == (0, 1, 0)
    assert isinstance(event, NotificationMetered)
    assert (event.data.project, event.data.channel, event.data.count) == ("proj_1", "webhook", 3)
    assert event.data.window_end - event.data.window_start == timedelta(hours=1)
    assert event.noun_id == event.data.key == "proj_1-webhook-2026010100"


async def test_what_is_settled_after_its_hour_was_told_counts_for_the_next(rig: Rig):
    counted = metering.Counted("proj_1", "webhook")
    await rig.database.write(lambda tx: metering.count(tx, {counted: 1}))
    rig.clock.advance(3700)
    await rig.database.write(metering.say_closed)
    rig.clock.advance(-3700)

    await rig.database.write(lambda tx: metering.count(tx, {counted: 2}))
    rig.clock.advance(2 * 3700)

    assert await rig.database.write(metering.say_closed) == 1


async def test_the_log_goes_back_as_far_as_the_policy_says(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await subscribe(rig, sink)
    await rig.hear(succeeded(rig))
    await rig.deliver()
    rig.clock.advance(3600)
    await rig.hear(succeeded(rig))

    forgetting = asyncio.create_task(forget_old(rig.database, timedelta(seconds=60)))
    async with asyncio.timeout(20):
        while len(await rig.deliveries(made.id)) > 1:
            await asyncio.sleep(0.02)
    forgetting.cancel()
    await asyncio.gather(forgetting, return_exceptions=True)

    assert [delivery.state for delivery in await rig.deliveries(made.id)] == ["waiting"]
