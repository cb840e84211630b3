"""A model's birth certificate: made once, soon after it is ready; and the check before it is served.

Hashing runs in a thread, never in the event loop. What was signed is never signed again: files that are not those of
the signature are refused, not blessed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from weakref import WeakValueDictionary

from sqlmodel import Session

from finery_contracts.errors import Conflict, FineryError, NotFound
from finery_contracts.gallery import GalleryEntry
from finery_contracts.jobs import ImportOutput, MergeOutput
from finery_contracts.models import Certificate, ModelSigned, ModelState, ModelView
from finery_kit.db import Database, Transaction
from finery_kit.storage import Storage
from finery_studio.datasets.store import DatasetRow, DatasetView
from finery_studio.models import store
from finery_studio.models.bom import bill
from finery_studio.models.card import Facts, card
from finery_studio.models.signature import Keys, Signer, digest_of
from finery_studio.models.tree import (
    BILL,
    CARD,
    SIGNATURE,
    certificate_place,
    digest_of_file,
    payload_of,
    tree_of,
)
from finery_studio.settings import StudioSettings
from finery_studio.tasks.store import TaskRow, view_of

log = logging.getLogger("finery.studio.birth")
Policy = Literal["refuse", "warn", "off"]


@dataclass
class Registrar:
    """Makes certificates and checks them."""

    database: Database
    storage: Storage
    signer: Signer
    keys: Keys
    gallery: Mapping[str, GalleryEntry]
    on_change: Policy = "refuse"
    on_withdrawn: Policy = "warn"
    _given_up: set[str] = field(default_factory=set[str])
    _making: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary[str, asyncio.Lock])

    async def certify_all(self) -> int:
        """Every ready model that has none yet; how many were made."""
        waiting = await self.database.read(lambda s: store.unsigned(s, limit=20 + len(self._given_up)))
        made = 0
        for view in waiting:
            if view.id not in self._given_up:
                made += (await self._try(view)) is not None
        return made

    async def certify(self, view: ModelView) -> ModelView:
        """The model with its certificate, which is made now unless somebody made it since the view was read."""
        async with self._making.setdefault(view.id, asyncio.Lock()):
            now = await self.database.read(lambda session: store.find(session, view.project, view.id)) or view
            if now.certificate is not None:
                return now
            facts = await self.database.read(lambda session: self.facts_of(session, now))
            made = await asyncio.to_thread(self._make, facts, self.database.now())
            return await self.database.write(lambda tx: _register(tx, now.id, made)) or now

    async def check(self, view: ModelView) -> list[str]:
        """Before it is served: its files, and its base's, are those that were signed; what there is to warn of.

        Raises:
            Conflict: ``model_changed``, with the file; ``input_withdrawn``, where the policy refuses it.
            OSError: it has no signature yet, and none can be made.
        """
        base = await self.database.read(lambda s: store.find(s, view.project, view.base or "")) if view.base else None
        models = [model for model in (view, base) if model is not None]
        if base is not None and base.state is not ModelState.READY:
            raise Conflict(f"model {base.name}, the base of {view.name}, is {base.state}", code="model_not_ready")
        warnings = self._withdrawn(models)
        if self.on_change == "off":
            return warnings
        for model in models:
            try:
                await self._verify_or_certify(model)
            except (FineryError, OSError) as fault:
                if self.on_change == "refuse":
                    raise
                reason = fault.message if isinstance(fault, FineryError) else str(fault)
                log.warning("model_changed", extra={"model": model.id, "reason": reason})
                warnings.append(reason)
        return warnings

    def verify(self, view: ModelView) -> Mapping[str, str]:
        """Digests of all files, when they are those that were signed; blocks while it hashes.

        Raises:
            Conflict: ``model_changed``, ``param`` names the file.
            InvalidRequest: ``signature_invalid``, ``signer_unknown``.
        """
        assert view.certificate is not None
        path = self.storage.find(f"{view.certificate.url}/{SIGNATURE}")
        if path is None:
            raise _changed(view, SIGNATURE, "is missing")
        stated = self.keys.read(path.read_bytes())
        if stated.digest != view.certificate.digest:
            raise _changed(view, SIGNATURE, "is not the one that was made at its birth")
        there = {name: file for name, file in tree_of(view, self.storage).items() if file.is_file()}
        for name in sorted(stated.files.keys() | there.keys()):
            if name not in there:
                raise _changed(view, name, "is missing")
            if name not in stated.files:
                raise _changed(view, name, "was not there when it was signed")
            if digest_of_file(there[name]) != stated.files[name]:
                raise _changed(view, name, "is not the one that was signed")
        return stated.files

    def facts_of(self, session: Session, view: ModelView) -> Facts:
        """What card and bill tell."""
        origin = view.base or view.lineage.get("base")
        base = session.get(store.ModelRow, origin) if origin else None
        names = [view.lineage[name] for name in ("dataset", "validation") if name in view.lineage]
        rows = [session.get(DatasetRow, name) for name in dict.fromkeys(names)]
        task = session.get(TaskRow, view.lineage.get("task", ""))
        entry = self.gallery.get(view.gallery or "")
        outputs = [view_of(row).output for name in view.tasks if (row := session.get(TaskRow, name)) is not None]
        made = next((found for found in reversed(outputs) if isinstance(found, ImportOutput | MergeOutput)), None)
        return Facts(
            model=view, base=ModelView.model_validate_json(base.view) if base else None,
            datasets=tuple(DatasetView.model_validate_json(row.view) for row in rows if row is not None),
            task=view_of(task) if task else None, licence=(entry.licence.spdx or entry.licence.name) if entry else None,
            languages=tuple(entry.languages) if entry else (),
            architecture=made.architecture if made else entry.architecture if entry else None,
        )  # fmt: skip

    async def _verify_or_certify(self, view: ModelView) -> None:
        """One that has no signature yet gets it first; what cannot be signed is not what was made here."""
        signed = view
        if view.certificate is None:
            try:
                signed = await self.certify(view)
            except NotFound:
                return  # nothing is there to be signed: serving it will say so
        if signed.certificate is not None:
            await asyncio.to_thread(self.verify, signed)

    async def _try(self, view: ModelView) -> ModelView | None:
        try:
            return await self.certify(view)
        except (FineryError, OSError) as fault:
            log.warning("certificate_not_made", extra={"model": view.id, "reason": str(fault)})
            if isinstance(fault, FineryError):  # a disk that is full now has room later
                self._given_up.add(view.id)
            return None

    def _make(self, facts: Facts, now: datetime) -> Certificate:
        """Hash, write, sign; blocks. One that was begun before is begun anew."""
        view = facts.model
        payload = {name: digest_of_file(path) for name, path in payload_of(view, self.storage).items()}
        url = certificate_place(view)
        target = self.storage.place(url)
        beside = target.with_name(".certificate.part")
        for old in (beside, target):
            shutil.rmtree(old, ignore_errors=True)
        beside.mkdir()
        (beside / CARD).write_text(card(facts), encoding="utf-8")
        (beside / BILL).write_text(bill(facts, payload), encoding="utf-8")
        files = {**payload, **{name: digest_of_file(beside / name) for name in (CARD, BILL)}}
        (beside / SIGNATURE).write_text(self.signer.sign(view.name, files), encoding="utf-8")
        os.replace(beside, target)
        return Certificate(
            url=url, key=self.signer.key, digest=digest_of(files), content=digest_of(payload), made_at=now
        )

    def _withdrawn(self, models: list[ModelView]) -> list[str]:
        told = [
            f"model {model.name} descends from dataset {found.name}, which was withdrawn: {found.reason}"
            for model in models
            for found in model.withdrawn_inputs
        ]
        if told and self.on_withdrawn == "refuse":
            raise Conflict("; ".join(told), code="input_withdrawn", param="model")
        for message in told if self.on_withdrawn == "warn" else ():
            log.warning("input_withdrawn", extra={"reason": message})
        return told if self.on_withdrawn == "warn" else []


def registrar_of(
    settings: StudioSettings, database: Database, storage: Storage, gallery: Mapping[str, GalleryEntry]
) -> Registrar:
    """With this installation's key, and the keys and policies that the operator chose."""
    signer = Signer(settings.secret)
    return Registrar(
        database, storage, signer, Keys.of(signer, tuple(settings.trusted_keys)), gallery,
        settings.verify_before_deploy, settings.withdrawn_inputs,
    )  # fmt: skip


def _register(tx: Transaction, model_id: str, made: Certificate) -> ModelView | None:
    view = store.held(tx, model_id)
    if view is None or view.certificate is not None or view.state is not ModelState.READY:
        return view
    return store.save(tx, store.changed(view, certificate=made), ModelSigned)


def _changed(view: ModelView, name: str, what: str) -> Conflict:
    return Conflict(
        f"{name} of model {view.name} {what}: it is not served; import or publish it again, or restore the file",
        code="model_changed", param=name,
    )  # fmt: skip
