"""What a service's table names must reach it: each fact is let through by the filters of its durable consumer."""

from __future__ import annotations

import pytest

from finery import render_api
from finery_contracts.envelope import Event
from finery_contracts.registry import EVENTS
from finery_contracts.render import heard_by
from finery_contracts.streams import (
    STREAMS,
    StreamSpec,
    covers,
    log_subject,
    metric_subject,
    report_subject,
    work_subject,
)

LISTENERS = ("studio", "deployer", "notifier", "billing-meter")
HEARD = [(service, kind) for service in LISTENERS for kind in render_api.routes_of(service)]


@pytest.mark.parametrize(("service", "kind"), HEARD, ids=lambda value: getattr(value, "__name__", value))
def test_a_fact_in_a_table_of_routes_passes_the_filters_of_its_service(service: str, kind: type[Event]) -> None:
    assert service in heard_by(kind)
    assert EVENTS[kind.type_name()] is kind


@pytest.mark.parametrize("service", LISTENERS)
def test_a_service_with_a_consumer_has_a_table(service: str) -> None:
    assert render_api.routes_of(service)


def test_only_services_with_a_consumer_have_a_table() -> None:
    assert [service for service in render_api.SERVICES if render_api.routes_of(service)] == list(LISTENERS)


def test_every_event_is_said_by_a_service_that_exists() -> None:
    assert {kind.SAID_BY for kind in EVENTS.values()} <= set(render_api.SERVICES)


@pytest.mark.parametrize(
    "subject",
    [
        *(kind.filter_subject() for kind in EVENTS.values()), work_subject("tune", "*"), report_subject("*"),
        metric_subject("*", "*"), log_subject("*", "*"), "finery.in.*.anything",
    ],
)  # fmt: skip
def test_every_subject_is_kept_by_exactly_one_stream(subject: str) -> None:
    assert sum(covers(pattern, subject) for stream in STREAMS for pattern in stream.subjects) == 1


@pytest.mark.parametrize("stream", [stream for stream in STREAMS if stream.consumers], ids=lambda stream: stream.name)
def test_a_consumers_filters_lie_within_its_stream(stream: StreamSpec) -> None:
    for consumer in stream.consumers:
        for pattern in consumer.filters:
            assert any(covers(subject, pattern) for subject in stream.subjects)


@pytest.mark.parametrize(
    ("pattern", "subject", "holds"),
    [
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*.c", "a.*.c", True),
        ("a.*.c", "a.b.c", True),
        ("a.b.c", "a.*.c", False),
        ("a.*", "a.>", False),
        ("a.>", "a.>", True),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_a_pattern_covers_what_nats_would_deliver(pattern: str, subject: str, holds: bool) -> None:
    assert covers(pattern, subject) is holds
