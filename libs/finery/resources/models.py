"""Models: import, findings, publish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from finery.transport import Page, Transport, every
from finery_contracts.jobs import Finding
from finery_contracts.model import Record
from finery_contracts.models import ModelView
from finery_contracts.tasks import NotifyChoice

PATH = "/api/v1/models"


class Findings(Record):
    """What validation found."""

    model: str
    state: str
    data: list[Finding]


class Models:
    """``client.models``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, gallery: str | None = None, path: str | None = None, description: str = "",
        validate: bool = True, notify: NotifyChoice | None = None,
    ) -> ModelView:  # fmt: skip
        """Make a model from the gallery or from a folder on the server; ``tasks`` of the answer do the work."""
        source = {"gallery": gallery, "path": path}
        body: Mapping[str, object] = {
            "name": name, "description": description, "validate": validate,
            "source": {key: value for key, value in source.items() if value is not None},
            **({"notify": notify.model_dump()} if notify else {}),
        }  # fmt: skip
        return self._transport.view(ModelView, "POST", PATH, json=body)

    def get(self, ref: str) -> ModelView:
        """One model, by id or name."""
        return self._transport.view(ModelView, "GET", f"{PATH}/{ref}")

    def list(self, *, search: str | None = None, limit: int = 20, after: str | None = None) -> Page[ModelView]:
        """Newest first."""
        return self._transport.page(ModelView, PATH, search=search, limit=limit, after=after)

    def all(self) -> Iterator[ModelView]:
        """Every model, newest first."""
        return every(lambda after: self.list(limit=100, after=after))

    def findings(self, ref: str) -> Findings:
        """What validation found, each with its remedy."""
        return self._transport.view(Findings, "GET", f"{PATH}/{ref}/findings")

    def publish(self, ref: str, *, name: str | None = None) -> ModelView:
        """Keep a temporary model for good."""
        return self._transport.view(ModelView, "POST", f"{PATH}/{ref}/publish", json={"name": name})

    def delete(self, ref: str) -> ModelView:
        """Remove it, unless something refers to it."""
        return self._transport.view(ModelView, "DELETE", f"{PATH}/{ref}")
