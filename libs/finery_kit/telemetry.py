"""Traces: one tracer for each service, the W3C traceparent as the thread through bus, engines and webhooks.

Spans go to an OTLP endpoint when one is configured, and always to a small file beside the state, so that a trace can be
shown without any other system. It never records prompts, records, keys or secrets.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from finery_contracts import jobs

_PROPAGATOR = TraceContextTextMapPropagator()
_PROVIDERS: dict[str, TracerProvider] = {}
MAX_FILE_BYTES = 64 * 2**20
SPANS_EACH = 32


class SpanFile(SpanExporter):
    """Appends spans as JSON lines; at the limit the older half is dropped by turning the file over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """One line a span."""
        lines = "".join(json.dumps(_as_line(span)) + "\n" for span in spans).encode()
        with self._lock, self._path.open("ab", buffering=0) as file:
            file.write(lines)  # at once: other services append to the same file
        if self._path.stat().st_size > MAX_FILE_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        return SpanExportResult.SUCCESS


def set_up(service: str, *, file: Path | None, otlp_endpoint: str | None) -> None:
    """Make the tracer of a service. Each service of one process has its own, so that traces name who did what."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"finery-{service}"}))
    if file is not None:
        provider.add_span_processor(BatchSpanProcessor(SpanFile(file), schedule_delay_millis=500))
    if otlp_endpoint:
        endpoint = otlp_endpoint.rstrip("/")
        endpoint = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint), schedule_delay_millis=500))
    _PROVIDERS[service] = provider


def shut_down(service: str) -> None:
    """Send what is left."""
    provider = _PROVIDERS.pop(service, None)
    if provider is not None:
        provider.shutdown()


@contextlib.contextmanager
def span_from(
    traceparent: str | None, service: str, name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any
) -> Generator[trace.Span]:
    """A span of ``service`` under ``traceparent``, or under the current span when that is None."""
    parent = context_of(traceparent) if traceparent else None
    tracer = tracer_of(service)
    with tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes) as span:
        yield span


@contextlib.contextmanager
def batch_span(service: str, name: str, causes: Sequence[tuple[str | None, str]]) -> Generator[None]:
    """Spans of work that many causes share: ``(traceparent, what it is about)`` each.

    A few: one span in each one's trace, all of the same length. Many: a single span that links to the first of them:
    on a hot path a span costs more than the work it tells of.
    """
    if len(causes) == 1:
        ((traceparent, noun),) = causes
        with span_from(traceparent, service, name, kind=SpanKind.CONSUMER, noun=noun):
            yield
        return
    tracer = tracer_of(service)
    if len(causes) > SPANS_EACH:
        linked = [trace.get_current_span(context_of(cause)) for cause, _ in causes[:SPANS_EACH] if cause]
        links = [trace.Link(span.get_span_context()) for span in linked]
        with tracer.start_as_current_span(
            name, context=Context(), kind=SpanKind.CONSUMER, links=links, attributes={"facts": len(causes)}
        ):
            yield
        return
    began = time.time_ns()
    try:
        yield
    finally:
        for traceparent, noun in causes:
            parent = context_of(traceparent) if traceparent else Context()
            tracer.start_span(
                name, context=parent, kind=SpanKind.CONSUMER, start_time=began, attributes={"noun": noun}
            ).end()  # fmt: skip


def tracer_of(service: str) -> trace.Tracer:
    """The tracer of a service, or one that records nothing."""
    provider = _PROVIDERS.get(service)
    return provider.get_tracer("finery") if provider else trace.NoOpTracerProvider().get_tracer("finery")


def current_traceparent() -> str | None:
    """The W3C header of the current span, if there is one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def export_engine_span(service: str, line: jobs.Span) -> None:
    """Hand a span that an engine wrote to this service's exporters, under its own ids."""
    provider = _PROVIDERS.get(service)
    if provider is None:
        return
    trace_id = int(line.trace_id, 16)
    parent = _remote(trace_id, line.parent_id) if line.parent_id else None
    span = ReadableSpan(
        name=line.name,
        context=_remote(trace_id, line.span_id),
        parent=parent,
        resource=provider.resource,
        attributes=line.attributes,
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, line.error) if line.error else Status(StatusCode.UNSET),
        start_time=line.start_ns,
        end_time=line.end_ns,
        instrumentation_scope=InstrumentationScope("finery.engine"),
    )
    # The multi-processor is the provider's one public door for finished spans.
    provider._active_span_processor.on_end(span)  # pyright: ignore[reportPrivateUsage]


def _remote(trace_id: int, span_id: str) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def context_of(traceparent: str) -> Context:
    """The context a W3C header stands for; an empty one when the header is none."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


def read_trace(file: Path, trace_id: str) -> list[dict[str, Any]]:
    """All spans of one trace that the file (and its predecessor) still hold, by start time."""
    found: list[dict[str, Any]] = []
    for path in (file.with_suffix(".1.jsonl"), file):
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines if trace_id in line and line.endswith("\n")]
    return sorted((span for span in found if span["trace_id"] == trace_id), key=lambda span: span["start_ns"])


def _as_line(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context() if isinstance(span, Span) else span.context
    assert context is not None
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "service": span.resource.attributes.get("service.name"),
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "error": span.status.description if span.status.status_code is StatusCode.ERROR else None,
        "attributes": dict(span.attributes or {}),
    }
