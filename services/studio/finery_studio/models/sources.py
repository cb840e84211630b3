"""Where a model's weights may come from, checked at submit: a gallery entry, or a folder that the asker may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.gallery import GalleryEntry


def source_of(
    gallery: str | None, path: str | None, entry: GalleryEntry | None, actor: Actor, roots: tuple[Path, ...]
) -> dict[str, Any]:
    """What the import engine is told of the source.

    Raises:
        InvalidRequest, Forbidden: it is none, or may not be read; known at submit.
    """
    if path is not None:
        overrides = {"overrides": entry.overrides, "family": entry.family} if entry else {}
        return {"source": _allowed(path, actor, roots), **overrides}
    if entry is None:
        raise InvalidRequest("say where the weights are: a gallery id or a folder", code="source_missing")
    if entry.source is None:
        raise InvalidRequest(
            f"{gallery} comes without recommended weights: give the folder of your own (source.path beside "
            "source.gallery)",
            code="custom_weights_needed", param="path", details=[{"rule": "custom_weights_only", "model": gallery}],
        )  # fmt: skip
    return {
        "source": entry.source,
        "gguf_file": entry.gguf_file,
        "family": entry.family,
        "overrides": entry.overrides,
    }


def _allowed(path: str, actor: Actor, roots: tuple[Path, ...]) -> str:
    folder = Path(path.removeprefix("file://"))
    if "://" in path and not path.startswith("file://"):
        raise InvalidRequest(f"{path}: only folders of this machine can be imported yet", code="source_unsupported")
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
    if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
        raise InvalidRequest(
            f"{path} has no config.json (and no .gguf file): it is not a model folder; take the whole folder as "
            "it was published",
            code="config_missing", param="path",
        )  # fmt: skip
    return str(folder)
