"""Where a model's weights may come from, checked at submit: a gallery entry, or a folder that the asker may name, here
or in an object store. It refuses single files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.gallery import GalleryEntry
from finery_contracts.jobs import ImportSpec
from finery_contracts.sources import Origin, PlaceView, S3Source, place_of
from finery_contracts.tasks import TaskView
from finery_kit.db import Transaction
from finery_studio.connections.origins import Checked, OriginDesk
from finery_studio.models.requests import NewModel

_FILES = (".gguf", ".safetensors")


@dataclass(frozen=True)
class Given:
    """Where weights come from: as the import's request tells it, as the model records it, and what is fetched first."""

    request: dict[str, Any]
    place: PlaceView | None = None
    checked: Checked | None = None


def given(
    tx: Transaction, new: NewModel, entry: GalleryEntry | None, *, actor: Actor, roots: tuple[Path, ...],
    origins: OriginDesk,
) -> Given:  # fmt: skip
    """What was asked for, checked; nothing is connected to.

    Raises:
        InvalidRequest, NotFound: it is no place of a model folder.
        Forbidden: ``path_not_allowed``, or ``grant_missing`` for an object store.
    """
    if new.url is not None and not new.url.startswith("file://"):
        checked = origins.check(tx, _store_source(new.url, new.connection), actor)
        place = place_of(checked.origin.source)
        told = {"origin": place.model_dump(mode="json", exclude_defaults=True), **_own(entry)}
        return Given(told | _named(new), place, checked)
    path = new.path if new.url is None else new.url
    request = source_of(new.gallery, path, entry, actor, roots) | _named(new)
    return Given(request, None if path is None else PlaceView(kind="file", url=f"file://{request['source']}"))


def import_spec_of(task: TaskView, origin: str | None, allowed_code: list[str]) -> ImportSpec:
    """The engine's spec; of a folder that is fetched it holds the open part only, as it is kept beside the model."""
    own = ImportSpec.model_fields.keys() - {"origin"}
    said = {name: value for name, value in task.request.items() if name in own}
    fetched = {} if origin is None else {"origin": Origin.model_validate_json(origin)}
    return ImportSpec.model_validate({**said, **fetched, "allowed_code": allowed_code})


def source_of(
    gallery: str | None, path: str | None, entry: GalleryEntry | None, actor: Actor, roots: tuple[Path, ...]
) -> dict[str, Any]:
    """What the import engine is told of the source.

    Raises:
        InvalidRequest, Forbidden: it is none, or may not be read; known at submit.
    """
    if path is not None:
        return {"source": _allowed(path, actor, roots), **_own(entry)}
    if entry is None:
        raise InvalidRequest("say where the weights are: a gallery id or a folder", code="source_missing")
    if entry.source is None:
        raise InvalidRequest(
            f"{gallery} comes without recommended weights: give the folder of your own (source.path or "
            "source.url beside source.gallery)",
            code="custom_weights_needed", param="path", details=[{"rule": "custom_weights_only", "model": gallery}],
        )  # fmt: skip
    return {
        "source": entry.source,
        "gguf_file": entry.gguf_file,
        "family": entry.family,
        "overrides": entry.overrides,
    }


def _own(entry: GalleryEntry | None) -> dict[str, Any]:
    """What an entry adds to weights that somebody brings for it."""
    return {"overrides": entry.overrides, "family": entry.family} if entry else {}


def _named(new: NewModel) -> dict[str, Any]:
    return {} if new.gguf_file is None else {"gguf_file": new.gguf_file}


def _store_source(url: str, connection: str | None) -> S3Source:
    """The folder in an object store; whatever its name says to be a single file is none."""
    if not url.startswith("s3://"):
        raise InvalidRequest(
            f"weights do not come from {url.partition(':')[0][:20]}: give s3://bucket/prefix for a folder in an object "
            "store, or file:///folder for one of this machine",
            code="source_unsupported", param="url",
        )  # fmt: skip
    try:
        source = S3Source(url=url, connection=connection)
    except ValidationError as fault:
        raise InvalidRequest(fault.errors()[0]["msg"], code="url_invalid", param="url") from fault
    if PurePosixPath(url).suffix.lower() in _FILES and not url.endswith("/"):
        raise InvalidRequest(
            f"{url} is a single file, and a model is a folder: give the prefix that it lies below, "
            f"{url.rpartition('/')[0]} (a folder of that name: end it with /)",
            code="not_a_folder", param="url",
        )  # fmt: skip
    return source


def _allowed(path: str, actor: Actor, roots: tuple[Path, ...]) -> str:
    folder = Path(path.removeprefix("file://"))
    if "://" in path and not path.startswith("file://"):
        raise InvalidRequest(
            "source.path is a folder of this machine; say a folder in an object store as source.url, s3://bucket/prefix",
            code="source_unsupported", param="path",
        )  # fmt: skip
    if not folder.is_absolute():
        raise InvalidRequest(f"{path}: give an absolute path", code="path_not_absolute", param="path")
    folder = folder.resolve()
    inside = any(folder.is_relative_to(root.resolve()) for root in roots)
    if not inside and actor.role is not Role.OPERATOR:
        raise Forbidden(
            f"{path} lies under no allowed root; an operator names roots by FINERY_ALLOWED_ROOTS",
            code="path_not_allowed", param="path",
        )  # fmt: skip
    if not folder.exists():
        raise InvalidRequest(f"{path}: there is no such folder", code="path_not_found", param="path")
    if not folder.is_dir():
        raise InvalidRequest(
            f"{path} is a single file; give the folder that holds weights, config and tokenizer",
            code="not_a_folder", param="path",
        )  # fmt: skip
    has_weights = any(path.suffix in _FILES for path in folder.iterdir())  # import tells all that is wrong with those
    if not (folder / "config.json").exists() and not has_weights:
        raise InvalidRequest(
            f"{path} has no config.json and no weights: it is not a model folder; take the whole folder as "
            "it was published",
            code="config_missing", param="path",
        )  # fmt: skip
    return str(folder)
