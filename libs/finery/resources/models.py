"""Models: import, findings, publish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from finery.transport import Page, Transport, every
from finery_contracts.jobs import Finding
from finery_contracts.lineage import Lineage
from finery_contracts.model import Record
from finery_contracts.models import ModelView
from finery_contracts.tasks import NotifyChoice
from finery_contracts.weights import Repairs

PATH = "/api/v1/models"
CertificateFile = Literal["README.md", "bom.cdx.json", "model.sig"]
BUNDLE_TIMEOUT_S = 24 * 3600.0


class Findings(Record):
    """What validation found."""

    model: str
    state: str
    data: list[Finding]


class ModelKey(Record):
    """Whoever is to take our bundles allows this key."""

    key: str
    public_key: str


class Models:
    """``client.models``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, gallery: str | None = None, path: str | None = None, url: str | None = None,
        connection: str | None = None, gguf_file: str | None = None, description: str = "", validate: bool = True,
        notify: NotifyChoice | None = None, apply_repairs: Sequence[str] = (),
    ) -> ModelView:  # fmt: skip
        """Make a model from the gallery or from a folder; ``tasks`` of the answer do the work.

        ``path``: a folder on the server. ``url``: ``s3://bucket/prefix``, opened by the ``connection`` of that name
        (default: the project's only one), or ``file:///folder``. Either beside ``gallery``: own weights for an entry.
        ``gguf_file``: which one, of a folder with several. ``apply_repairs``: known repairs that are agreed to
        beforehand.
        """
        source = {"gallery": gallery, "path": path, "url": url, "connection": connection, "gguf_file": gguf_file}
        body: Mapping[str, object] = {
            "name": name, "description": description, "validate": validate,
            "source": {key: value for key, value in source.items() if value is not None},
            **({"notify": notify.model_dump()} if notify else {}),
            **({"apply_repairs": list(apply_repairs)} if apply_repairs else {}),
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

    def repairs(self, ref: str) -> Repairs:
        """Which known repairs fit its files, each with its diff, and which its files have already."""
        return self._transport.view(Repairs, "GET", f"{PATH}/{ref}/repairs")

    def repair(self, ref: str, ids: Sequence[str]) -> ModelView:
        """Agree to repairs: a repaired copy is made as the next version of the name and takes it when it is ready.

        The one task of the answer makes it; the version that was named stays as it is.
        """
        return self._transport.view(ModelView, "POST", f"{PATH}/{ref}/repairs", json={"apply": list(ids)})

    def publish(
        self, ref: str, *, name: str | None = None, step: int | None = None,
        form: Literal["adapter", "merged"] = "adapter", new_version: bool = False,
    ) -> ModelView:  # fmt: skip
        """Keep what a tuning left for good: its final weights or those of a kept checkpoint, as adapter or merged.

        Merged, the answer's last task makes the weights. ``new_version``: become the next version of ``name``.
        """
        body = {"name": name, "step": step, "form": form, "new_version": new_version}
        return self._transport.view(ModelView, "POST", f"{PATH}/{ref}/publish", json=body)

    def versions(self, ref: str) -> Page[ModelView]:
        """Every version of the name, newest first: who made it, when, from which task."""
        return self._transport.page(ModelView, f"{PATH}/{ref}/versions")

    def make_current(self, ref: str) -> ModelView:
        """Let the bare name mean this version (``name@number``)."""
        return self._transport.view(ModelView, "POST", f"{PATH}/{ref}/current")

    def lineage(self, ref: str) -> Lineage:
        """What it comes from and what came of it: datasets, tasks, models."""
        return self._transport.view(Lineage, "GET", f"{PATH}/{ref}/lineage")

    def key(self) -> ModelKey:
        """The public key with which this installation signs its models."""
        return self._transport.view(ModelKey, "GET", "/api/v1/model-key")

    def certificate(self, ref: str, name: CertificateFile = "README.md") -> str:
        """Its card, its bill of materials (CycloneDX), or the signature over all its files (OpenSSF model signing)."""
        return self._transport.send("GET", f"{PATH}/{ref}/certificate/{name}").text

    def export(self, ref: str, file: str | Path, *, with_base: bool = False) -> None:
        """Write one bundle for another site; ``with_base``: an adapter brings its base along.

        Raises:
            OSError: the file cannot be written; what was there stays.
        """
        path = Path(file)
        beside = path.with_name(f".{path.name}.part")
        asked = {"base": "include" if with_base else "reference"}
        try:
            with (
                self._transport.stream("GET", f"{PATH}/{ref}/export", params=asked) as answer,
                beside.open("wb") as out,
            ):
                for chunk in answer.iter_bytes():
                    out.write(chunk)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def import_bundle(self, file: str | Path, *, name: str | None = None, new_version: bool = False) -> ModelView:
        """A model from another site, once every file and its signature were found to be good."""
        said = {"new_version": str(new_version).lower(), **({"name": name} if name else {})}
        path = Path(file)
        with path.open("rb") as body:
            return self._transport.view(
                ModelView, "POST", f"{PATH}/import-bundle", data=said, files={"file": (path.name, body)},
                timeout=BUNDLE_TIMEOUT_S,
            )  # fmt: skip

    def delete(self, ref: str) -> ModelView:
        """Remove it for good, with its bytes, unless something refers to it."""
        return self._transport.view(ModelView, "DELETE", f"{PATH}/{ref}", params={"confirm": "DELETE"})

    def restore(self, ref: str) -> ModelView:
        """Take back a deletion that OpenAI's surface made, within a day."""
        return self._transport.view(ModelView, "POST", f"{PATH}/{ref}/restore")
