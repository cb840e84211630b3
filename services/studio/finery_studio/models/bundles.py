"""Export and import of models: out with what was verified, in only after everything was.

Until the transaction that registers it, an imported model is a marked place in the store that goes by itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlmodel import Session

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_contracts.models import Certificate, ModelCreated, ModelPublished, ModelState, ModelView
from finery_kit.db import Transaction
from finery_kit.storage import SCHEME
from finery_studio.datasets.withdrawal import flagged_at_birth
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.models import store, versions
from finery_studio.models.birth import Registrar
from finery_studio.models.bundle_file import BundledModel, Manifest, Outgoing, outgoing, read_head, unpack
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.requests import ValidateRequest
from finery_studio.models.signature import Statement, digest_of
from finery_studio.models.tree import BILL, CARD, SIGNATURE, certificate_place, digest_of_file, tree_of
from finery_studio.removal.store import MADE_LATER, let_go, settled
from finery_studio.tasks.submit import NewTask, submit


@dataclass(frozen=True)
class Arrival:
    """One model of a bundle, whose files lie in the store already."""

    id: str
    said: BundledModel
    stated: Statement


@dataclass
class Carrier:
    """Takes models out of this house and into it."""

    desk: ModelDesk
    registrar: Registrar
    max_bytes: int

    async def certificate_file(self, project: str, ref: str, name: str) -> Path:
        """Card, bill of materials or signature of a version.

        Raises:
            Conflict: ``not_ready``: it has none yet.
        """
        view = await self.registrar.database.read(lambda session: store.load(session, project, ref))
        if view.certificate is None:
            raise Conflict(
                f"model {view.name} is {view.state} and has no certificate yet; it gets one soon after it is ready",
                code="not_ready",
            )  # fmt: skip
        return self.registrar.storage.path(f"{view.certificate.url}/{name}")

    async def export(self, project: str, ref: str, *, with_base: bool) -> Outgoing:
        """A bundle of one version: weights, or adapter with its base or a reference to it.

        Raises:
            Conflict: ``not_ready``; ``model_changed``: its files are not those that were signed.
        """

        def read(session: Session) -> list[ModelView]:
            view = store.load(session, project, ref)
            base = store.find(session, project, view.base) if view.base else None
            return [view, *([base] if base else [])]

        views = await self.registrar.database.read(read)
        for place, view in enumerate(views):
            if view.state is not ModelState.READY:
                raise Conflict(f"model {view.name} is {view.state}; it cannot be exported yet", code="not_ready")
            views[place] = view if view.certificate else await self.registrar.certify(view)
        return await asyncio.to_thread(self._pack, views, with_base=with_base)

    async def take_in(
        self, gate: Gate, wish: Wish, file: BinaryIO, *, name: str | None, new_version: bool
    ) -> ModelView:
        """Verify everything, then register the model, and its base when that came along.

        Raises:
            InvalidRequest: ``bundle_invalid``, ``bundle_changed``, ``bundle_incomplete``, ``signer_unknown``,
                ``signature_invalid``, ``base_missing``.
            TooLarge, Conflict: ``bundle_too_large``; ``name_taken``.
        """
        actor, storage = wish.actor, self.registrar.storage
        manifest = await asyncio.to_thread(read_head, file, self.registrar.keys)
        await gate.database.read(lambda session: self._base_of(session, actor.project, manifest))
        ids = {"model": new_id("mdl"), "base": new_id("mdl")}
        places = [f"{SCHEME}{actor.project}/models/{found}" for found in ids.values()]
        await gate.database.write(lambda tx: let_go(tx, actor.project, places, at=tx.now + MADE_LATER))
        folder = Path(tempfile.mkdtemp(dir=storage.root / ".incoming"))
        try:
            arrived = await asyncio.to_thread(self._unpack, file, manifest, folder, ids, actor.project)
            return await gate.once(
                wish, ModelView, lambda tx: self._register(tx, actor, manifest, arrived, name, new_version=new_version)
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await gate.database.write(lambda tx: settled(tx, places))

    # --- below --------------------------------------------------------------------------------------------------

    def _pack(self, views: list[ModelView], *, with_base: bool) -> Outgoing:
        files, digests = dict[str, Path](), dict[str, str]()
        packed = dict(zip(("model", "base"), views if with_base else views[:1], strict=False))
        for part, view in packed.items():
            assert view.certificate is not None
            stated = self.registrar.verify(view)
            signature = self.registrar.storage.path(f"{view.certificate.url}/{SIGNATURE}")
            files |= {f"{part}/{name}": path for name, path in tree_of(view, self.registrar.storage).items()}
            digests |= {f"{part}/{name}": digest for name, digest in stated.items()}
            files[f"{part}.sig"] = signature
            digests[f"{part}.sig"] = digest_of_file(signature)
        told = [_bundled(view) for view in views]
        return outgoing(told[0], told[1] if len(told) > 1 else None, files, digests, self.registrar.signer)

    def _unpack(
        self, file: BinaryIO, manifest: Manifest, folder: Path, ids: Mapping[str, str], project: str
    ) -> dict[str, Arrival]:
        stated = unpack(file, manifest, folder, self.registrar.keys, max_bytes=self.max_bytes)
        said = {"model": manifest.model, "base": manifest.base}
        arrived = dict[str, Arrival]()
        for part, statement in stated.items():
            model = said[part]
            payload = {name: digest for name, digest in statement.files.items() if name not in (CARD, BILL)}
            if model is None or digest_of(payload) != model.content or not {CARD, BILL} <= statement.files.keys():
                raise InvalidRequest(
                    f"the files of {part} are not those that the manifest speaks of", code="bundle_changed", param=part
                )
            root = self.registrar.storage.place(f"{SCHEME}{project}/models/{ids[part]}/certificate").parent
            (root / "certificate").mkdir()
            for name in (CARD, BILL):
                os.replace(folder / part / name, root / "certificate" / name)
            os.replace(folder / f"{part}.sig", root / "certificate" / SIGNATURE)
            os.replace(folder / part, root / ("adapter" if model.adapter else "weights"))
            arrived[part] = Arrival(ids[part], model, statement)
        return arrived

    def _base_of(self, session: Session, project: str, manifest: Manifest) -> ModelView | None:
        """The base of an adapter that is here already, file for file; None: it comes along, or none is needed."""
        if not manifest.model.adapter:
            return None
        if manifest.base is None:
            raise InvalidRequest("an adapter came without a word of its base", code="bundle_invalid", param="file")
        for view in store.list_models(session, project, limit=100_000):
            same = view.certificate is not None and view.certificate.content == manifest.base.content
            if same and view.state is ModelState.READY:
                return view
        if not any(name.startswith("base/") for name in manifest.files):
            raise InvalidRequest(
                f"adapter {manifest.model.name} needs its base {manifest.base.name}, whose very files are not here; "
                "import the base first, or export with the base included",
                code="base_missing", param="base",
            )  # fmt: skip
        return None

    def _register(
        self, tx: Transaction, actor: Actor, manifest: Manifest, arrived: Mapping[str, Arrival], name: str | None, *,
        new_version: bool,
    ) -> ModelView:  # fmt: skip
        base = self._base_of(tx.session, actor.project, manifest)
        if base is None and manifest.model.adapter:
            wanted = arrived["base"].said.name
            taken = store.find(tx.session, actor.project, wanted) is not None
            named = f"{wanted[:55]}-{arrived['base'].id[-8:]}" if taken else wanted
            base = self._add(tx, actor, arrived["base"], named, None, new_version=False)
        return self._add(tx, actor, arrived["model"], name or manifest.model.name, base, new_version=new_version)

    def _add(
        self, tx: Transaction, actor: Actor, came: Arrival, name: str, base: ModelView | None, *, new_version: bool
    ) -> ModelView:
        """A model of the project; weights are validated like any others before they can be used."""
        holder = versions.ask_for_place(tx, actor.project, name, new_version=new_version)
        root, task_id, said = f"{SCHEME}{actor.project}/models/{came.id}", new_id("task"), came.said
        view = ModelView(
            id=came.id, project=actor.project, name=name, description=said.description, version=1,
            number=store.next_number(tx.session, actor.project, name), current=holder is None,
            state=ModelState.READY if base else ModelState.VALIDATING, created_by=actor.user, created_at=tx.now,
            family=said.family, gallery=said.gallery if said.gallery in self.desk.gallery else None,
            base=base.id if base else None, weights=base.weights if base else f"{root}/weights",
            adapter=f"{root}/adapter" if base else None, parameters=said.parameters, size_bytes=said.size_bytes,
            quantisation=said.quantisation, max_length=said.max_length, tasks=[] if base else [task_id],
            withdrawn_inputs=said.withdrawn_inputs,
            lineage={"origin": said.origin, **({"base": base.id} if base else {})},
        )  # fmt: skip
        content = {path: digest for path, digest in came.stated.files.items() if path not in (CARD, BILL)}
        sealed = Certificate(
            url=certificate_place(view), key=came.stated.key, digest=came.stated.digest, content=digest_of(content),
            made_at=tx.now,
        )  # fmt: skip
        view = view.model_copy(update={"certificate": sealed})
        if base is not None:
            made = flagged_at_birth(tx, store.save(tx, view, ModelPublished))
            return versions.promote(tx, made)
        view = flagged_at_birth(tx, store.save(tx, view, ModelCreated))
        asked, request = (
            ValidateRequest(kind="validate", model=view.id),
            {"model": view.id, "promote": holder is not None},
        )
        new = NewTask(
            TaskKind.VALIDATE, f"validate-{name}", request, asked, result={"model": view.id}, task_id=task_id,
            model_parameters=view.parameters or None,
        )  # fmt: skip
        submit(tx, new, actor, self.desk.specs)
        return view


def _bundled(view: ModelView) -> BundledModel:
    assert view.certificate is not None
    return BundledModel(
        name=view.name, number=view.number, origin=view.id, description=view.description, family=view.family,
        gallery=view.gallery, parameters=view.parameters, size_bytes=view.size_bytes, max_length=view.max_length,
        quantisation=view.quantisation, adapter=view.adapter is not None, content=view.certificate.content,
        withdrawn_inputs=view.withdrawn_inputs,
    )  # fmt: skip
