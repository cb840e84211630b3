"""The gallery: what can be made into a model by name, and what each can be used for."""

from __future__ import annotations

from finery.transport import Page, Transport
from finery_contracts.gallery import GalleryEntry

PATH = "/api/v1/gallery"


class Gallery:
    """``client.gallery``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, family: str | None = None, language: str | None = None, use: str | None = None,
        supports: str | None = None, search: str | None = None,
    ) -> Page[GalleryEntry]:  # fmt: skip
        """Everything, or what fits: ``language`` as in ISO 639-1, ``supports`` tune, compress or deploy."""
        asked = {"family": family, "language": language, "use": use, "supports": supports, "search": search}
        return self._transport.page(GalleryEntry, PATH, **asked)

    def get(self, model_id: str) -> GalleryEntry:
        """One entry, by its id."""
        return self._transport.view(GalleryEntry, "GET", f"{PATH}/{model_id}")
