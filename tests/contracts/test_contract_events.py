"""Every fact survives the way over the bus, and is what its schema says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contract_examples import event_of, example_of
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from finery_contracts import render
from finery_contracts.datasets import DatasetReady
from finery_contracts.envelope import Event
from finery_contracts.registry import EVENTS, UnknownEventType, parse_event
from finery_contracts.tasks import TaskFailed

SCHEMAS = Path(__file__).parents[2] / "contracts" / "schemas"
ALL = [*EVENTS.values(), *render.NOT_ON_THE_BUS]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "least"])
@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_an_event_comes_back_from_its_bytes_as_it_was(kind: type[Event], whole: bool) -> None:
    said = event_of(kind, whole=whole)

    heard = parse_event(said.model_dump_json().encode())

    assert heard == said
    assert type(heard) is kind


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "least"])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type_name())
def test_an_event_fulfils_its_committed_schema(kind: type[Event], whole: bool) -> None:
    validator = _validator(kind.type_name())

    validator.validate(json.loads(event_of(kind, whole=whole).model_dump_json()))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "least"])
@pytest.mark.parametrize(("name", "model"), render.FILES.items(), ids=render.FILES)
def test_a_file_or_message_fulfils_its_committed_schema(name: str, model: type[BaseModel], whole: bool) -> None:
    validator = _validator(name)

    validator.validate(json.loads(example_of(model, whole=whole).model_dump_json()))


def test_the_schema_of_one_event_refuses_another() -> None:
    failed = json.loads(event_of(TaskFailed, whole=True).model_dump_json())

    faults = list(_validator(DatasetReady.type_name()).iter_errors(failed))

    assert ["type"] in [list(fault.path) for fault in faults]


def test_a_field_that_a_newer_peer_added_is_ignored() -> None:
    said = event_of(TaskFailed, whole=True)
    newer = json.loads(said.model_dump_json())
    newer["data"]["a_field_of_the_next_version"] = 1

    _validator(said.type).validate(newer)

    assert parse_event(json.dumps(newer).encode()) == said


def test_an_event_of_a_newer_peer_is_told_apart_from_a_broken_one() -> None:
    with pytest.raises(UnknownEventType, match=r"io\.finery\.task\.dreamt\.v1"):
        parse_event(b'{"type": "io.finery.task.dreamt.v1"}')
    with pytest.raises(ValueError, match="id"):
        parse_event(b'{"type": "io.finery.task.failed.v1"}')


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type_name())
def test_a_class_is_named_as_its_noun_and_fact(kind: type[Event]) -> None:
    words = kind.__name__.lower()

    assert words.endswith(kind.FACT.replace("_", ""))
    assert kind.__doc__
    assert kind.SAID_BY


def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
