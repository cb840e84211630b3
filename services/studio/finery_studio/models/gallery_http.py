"""Routes of the gallery: what can be made by name, and what of it fits what somebody looks for."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from finery_contracts.access import Actor, Role
from finery_contracts.gallery import GalleryEntry
from finery_contracts.model import Record
from finery_studio.edge.auth import Gate
from finery_studio.models.gallery import entry_named
from finery_studio.models.support import Verb

Word = Annotated[str | None, Query(max_length=100)]


class GalleryPage(Record):
    """What was found, always on one page."""

    data: list[GalleryEntry]
    has_more: bool = False
    next: str | None = None


def routes(gate: Gate, gallery: Mapping[str, GalleryEntry]) -> APIRouter:
    """``/gallery`` below the prefix of models."""
    router = APIRouter()
    reader = Depends(gate.needs(Role.READ))

    @router.get("/gallery")
    async def list_all(
        _: Actor = reader,
        family: Word = None,
        language: Annotated[str | None, Query(max_length=100, description="ISO 639-1, such as zh")] = None,
        use: Annotated[str | None, Query(max_length=100, description="such as dialogue")] = None,
        supports: Annotated[Verb | None, Query(description="what it can be used for")] = None,
        search: Annotated[str | None, Query(max_length=100, description="part of id, title, family or hub")] = None,
    ) -> GalleryPage:
        found = [
            entry
            for entry in gallery.values()
            if _is(family, [entry.family])
            and _is(language, entry.languages)
            and _is(use, entry.uses)
            and (supports is None or getattr(entry.supports, supports))
            and _holds(search, entry)
        ]
        return GalleryPage(data=found)

    @router.get("/gallery/{model_id}")
    async def one(model_id: str, _: Actor = reader) -> GalleryEntry:
        return entry_named(gallery, model_id, param="model_id")

    return router


def _is(wanted: str | None, words: list[str]) -> bool:
    return wanted is None or wanted.casefold() in (word.casefold() for word in words)


def _holds(part: str | None, entry: GalleryEntry) -> bool:
    places = (entry.id, entry.title, entry.family, entry.hub or "")
    return part is None or any(part.casefold() in place.casefold() for place in places)
