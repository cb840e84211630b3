"""The table of permissions knows what the services are wired to do: kinds of work, requests, consumers."""

from __future__ import annotations

import importlib

import pytest

from finery import render_api
from finery_contracts.permissions import ANSWERS, HEARS, SERVICES, WORKERS, grants, project_grant
from finery_contracts.streams import covers

GRANTS = {grant.user: grant for grant in grants()}


def test_every_service_is_in_the_table() -> None:
    assert sorted(SERVICES) == sorted(render_api.SERVICES)


@pytest.mark.parametrize("service", render_api.SERVICES)
def test_a_worker_claims_the_kinds_it_has_engines_for(service: str) -> None:
    assert set(render_api.kinds_of(service)) <= set(WORKERS.get(service, ()))


@pytest.mark.parametrize("service", render_api.SERVICES)
def test_whoever_has_requests_may_hear_and_answer_them(service: str) -> None:
    app = importlib.import_module(f"finery_{service.replace('-', '_')}.app")
    if getattr(app, "REQUESTS", {}):
        assert service in ANSWERS
        assert GRANTS[service].answers


@pytest.mark.parametrize("service", render_api.SERVICES)
def test_whoever_has_routes_has_a_consumer(service: str) -> None:
    assert not render_api.routes_of(service) or service in HEARS


def test_a_project_reaches_its_own_subjects_alone() -> None:
    grant = project_grant("prj_1")
    for subject in (*grant.publish, *grant.subscribe):
        assert "prj_1" in subject
        assert not covers(subject, subject.replace("prj_1", "prj_2"))
