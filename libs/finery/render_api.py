"""Renders asyncapi.yaml and openapi.json from the services as they are wired, and the schemas with them.

    python -m finery.render_api [--check]

It stands on top because it must see every service. It starts none: no broker is asked, no home of anybody is touched.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from finery_contracts import render
from finery_contracts.completions import ChatCompletionRequest, CompletionRequest
from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.inbound import InboundEvent
from finery_contracts.jobs import TaskKind
from finery_contracts.registry import EVENTS
from finery_contracts.streams import log_subject, metric_subject, report_subject, work_subject
from finery_contracts.work import LogLine, MetricPoint, Report
from finery_studio.app import Studio
from finery_studio.settings import StudioSettings

SERVICES = (
    "studio", "dataset-ingest", "weight-validator", "trainer", "distiller", "compressor", "evaluator", "deployer",
    "gateway", "notifier", "billing-meter",
)  # fmt: skip
OPEN_TO_ALL = ("/healthz", "/readyz", "/confirm/{token}")
COMPLETIONS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
}
"""The routes that the gateway answers itself; all others it passes to studio."""


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring; the return value is the exit status."""
    asked = render.options("Render schemas, catalogue, AsyncAPI and OpenAPI.", argv)
    wanted = {**render.documents(asked.contracts), **documents()}
    return render.write_or_check(asked.contracts, wanted, check=asked.check, may_break=asked.may_break)


def documents() -> render.Documents:
    """What needs the services: path below ``contracts/`` → text."""
    return {"schemas/asyncapi.yaml": asyncapi(), "schemas/openapi.json": openapi()}


# --- AsyncAPI -------------------------------------------------------------------------------------------------------


def asyncapi() -> str:
    """Who hears and says what, from a broker that only describes: it is never connected."""
    broker = NatsBroker("nats://127.0.0.1:4222")
    for service in SERVICES:
        for event in routes_of(service):
            _hears(broker, service, event.filter_subject(), event)
        for event in EVENTS.values():
            if service == event.SAID_BY:
                _says(broker, service, event.filter_subject(), event)
        for kind in kinds_of(service):
            _hears(broker, service, work_subject(kind, "*"), bytes, f"doorbell-{kind}")
        if kinds_of(service):
            _says(broker, service, report_subject("*"), Report)
            _says(broker, service, metric_subject("*", "*"), list[MetricPoint], "MetricPoints")
            _says(broker, service, log_subject("*", "*"), list[LogLine], "LogLines")
    _hears(broker, "studio", report_subject("*"), Report)
    _hears(broker, "studio", "finery.in.>", InboundEvent)
    document = AsyncAPI(
        broker, title="Finery", version="0.1.0", schema_version="3.0.0",
        description="What the services of Finery hear and say. Delivery and versions: contracts/README.md.",
    ).to_specification().to_yaml()  # fmt: skip
    return yaml.safe_dump(yaml.safe_load(document), sort_keys=True, allow_unicode=True, width=120)


def routes_of(service: str) -> tuple[type[Event], ...]:
    """The facts that a service hears: the keys of its ROUTES."""
    return tuple(getattr(_app(service), "ROUTES", {}))


def kinds_of(service: str) -> tuple[TaskKind, ...]:
    """The kinds of task whose doorbell a worker service answers: the keys of its ENGINES."""
    return tuple(getattr(_app(service), "ENGINES", {}))


def _app(service: str) -> object:
    return importlib.import_module(f"finery_{service.replace('-', '_')}.app")


def _hears(broker: NatsBroker, service: str, subject: str, shape: Any, name: str | None = None) -> None:
    title = f"{service}.hears.{name or shape.__name__}"
    broker.subscriber(subject, title=title, description=_meaning(shape))(_described(shape))


def _says(broker: NatsBroker, service: str, subject: str, shape: Any, name: str | None = None) -> None:
    title = f"{service}.says.{name or shape.__name__}"
    broker.publisher(subject, title=title, description=_meaning(shape), schema=shape)


def _described(shape: Any) -> Callable[..., Any]:
    """A handler that is never called: FastStream reads the shape of its message off the signature."""

    async def on_message(message: Any) -> None: ...

    on_message.__annotations__["message"] = shape
    return on_message


def _meaning(shape: Any) -> str:
    """A model's first line; what is no model says nothing of itself."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return (shape.__doc__ or "").strip().split("\n")[0]
    return "work of this kind waits; the message is empty" if shape is bytes else "a batch, at most every 250 ms"


# --- OpenAPI --------------------------------------------------------------------------------------------------------


def openapi() -> str:
    """The one public port: studio's routes as FastAPI describes them, and the two that the gateway answers."""
    with tempfile.TemporaryDirectory() as home:
        settings = StudioSettings(
            home=Path(home), store_root=None, database_url=None, gallery_file=None, installation_secret="00" * 32
        )
        document = Studio(settings).http().openapi()
    _add_completions(document)
    _true_errors(document)
    _add_keys(document)
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _add_completions(document: dict[str, Any]) -> None:
    wanted = [(model, "validation") for model in (*COMPLETIONS.values(), ErrorBody)]
    _, found = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # pyright: ignore[reportArgumentType]
    document["components"]["schemas"] |= found["$defs"] | {"ErrorAnswer": _error_answer()}
    for path, model in COMPLETIONS.items():
        document["paths"][path] = {"post": _completion(path, model)}


def _completion(path: str, model: type[BaseModel]) -> dict[str, Any]:
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    answers: dict[str, Any] = {
        "200": {
            "description": "OpenAI's answer; with `stream: true` its chunks as server-sent events, ended by `[DONE]`",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
    }
    answers |= {status: _error(meaning) for status, meaning in _COMPLETION_ERRORS.items()}
    return {
        "tags": ["completions"],
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "summary": (model.__doc__ or "").strip(),
        "description": "Answered by the gateway. `model` is the name of a running deployment, or an `ft:` name.",
        "requestBody": {"required": True, "content": body},
        "responses": answers,
    }


_COMPLETION_ERRORS = {
    "404": "no such deployment or model in this project",
    "429": "more requests a second than the deployment allows; see `Retry-After`",
    "503": "the deployment is not running, or its instance does not answer",
}


def _true_errors(document: dict[str, Any]) -> None:
    """Finery answers what is not valid with 400 in OpenAI's shape, never with FastAPI's 422."""
    for path, operation in _operations(document):
        responses = operation["responses"]
        if responses.pop("422", None) is not None or path in COMPLETIONS:
            responses["400"] = _error("the request is not valid; `details` names each fault")
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
            responses["409"] = _error("its state does not allow it; or `request_in_progress`: see `Retry-After`")
            responses["422"] = _error("`idempotency_key_reused`: the key came with another request before")
        if path not in OPEN_TO_ALL:
            responses["401"] = _error("the API key is missing, wrong or revoked")
        responses["default"] = _error("any other error; programs decide by `code`")
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)


def _add_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operation in _operations(document):
        operation["security"] = [] if path in OPEN_TO_ALL else [{"key": []}]


def _operations(document: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, item in document["paths"].items() for operation in item.values()]


def _error(meaning: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorAnswer"}
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}


def _error_answer() -> dict[str, Any]:
    """OpenAI's shape around our error; ``details`` is our addition."""
    body = ErrorBody.model_json_schema()
    kind = {"type": "string", "description": "OpenAI's class of error, such as invalid_request_error"}
    error = {
        "type": "object",
        "properties": {**body["properties"], "type": kind},
        "required": [*body["required"], "type"],
    }
    return {
        "type": "object",
        "description": "Every error that Finery answers with.",
        "properties": {"error": error},
        "required": ["error"],
    }


if __name__ == "__main__":
    sys.exit(main())
