"""Versions of a name: each is a model of its own with an id of its own; one of them is current.

A number is never given twice, also not after a deletion. It refuses to change what a version holds.
"""

from __future__ import annotations

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict
from finery_contracts.models import ModelMadeCurrent, ModelPublished, ModelState, ModelSteppedBack, ModelView
from finery_kit.db import Transaction
from finery_studio.models import store
from finery_studio.projects.domain import check_name


def take_place(tx: Transaction, project: str, name: str, *, new_version: bool) -> int:
    """The number for a model that has this name from now on; the version that had it steps back.

    Raises: as ``ask_for_place``.
    """
    holder = ask_for_place(tx, project, name, new_version=new_version)
    if holder is not None:
        _step_back(tx, holder)
    return store.next_number(tx.session, project, name)


def ask_for_place(tx: Transaction, project: str, name: str, *, new_version: bool) -> ModelView | None:
    """The version that has this name, if another one may take it.

    Raises:
        InvalidRequest: ``name_invalid``.
        Conflict: ``name_taken``: there is one of that name, and a new version was not asked for.
    """
    check_name(name, model=True)
    holder = store.find(tx.session, project, name)
    if holder is not None and (not new_version or holder.name != name):
        raise Conflict(
            f"there is a model named {name} already; take another name, or say new_version to make this its next "
            "version",
            code="name_taken", param="name",
        )  # fmt: skip
    return holder


def promote(tx: Transaction, view: ModelView) -> ModelView:
    """A version whose weights had to be made first is there: the name is its own now."""
    holder = store.find(tx.session, view.project, view.name)
    if view.current or (holder is not None and holder.number > view.number):
        return view
    if holder is not None:
        _step_back(tx, holder)
    return store.save(tx, store.changed(view, current=True), ModelMadeCurrent)


def publish(tx: Transaction, project: str, ref: str, name: str | None, *, new_version: bool = False) -> ModelView:
    """Keep a temporary model for good, as it is."""
    view = store.mine(tx, project, ref)
    if view.published:
        raise Conflict(
            f"model {view.name} is published already; say step or form to make another one of it",
            code="already_published",
        )  # fmt: skip
    number = view.number if name is None else take_place(tx, project, name, new_version=new_version)
    kept = store.changed(
        view, published=True, expires_at=None, notices=[], name=name or view.name, number=number, current=True
    )
    return store.save(tx, kept, ModelPublished)


def make_current(tx: Transaction, project: str, ref: str) -> ModelView:
    """Return to an earlier version, or go forward again.

    Raises:
        Conflict: ``already_current``; ``model_not_ready``.
    """
    view = store.mine(tx, project, ref)
    if view.current:
        raise Conflict(f"version {view.number} of {view.name} is the current one already", code="already_current")
    if view.state is not ModelState.READY:
        raise Conflict(f"version {view.number} of {view.name} is {view.state}", code="model_not_ready")
    holder = store.find(tx.session, project, view.name)
    if holder is not None:
        _step_back(tx, holder)
    return store.save(tx, store.changed(view, current=True), ModelMadeCurrent)


def hand_on(tx: Transaction, gone: ModelView) -> None:
    """The current version was deleted: the newest that is ready has the name now, or else the newest."""
    others = store.versions(tx.session, gone.project, gone.name) if gone.current else []
    ready = [view for view in others if view.state is ModelState.READY]
    for heir in (ready or others)[:1]:
        held = store.held(tx, heir.id)
        if held is not None:
            store.save(tx, store.changed(held, current=True), ModelMadeCurrent)


def born(actor: Actor, tx: Transaction, model_id: str, name: str, number: int) -> dict[str, object]:
    """What is a version's own when the rest of its view is taken from the one that it is made of."""
    return {
        "id": model_id, "name": name, "number": number, "current": True, "version": 1, "created_by": actor.user,
        "created_at": tx.now, "published": True, "expires_at": None, "notices": [], "certificate": None, "findings": [],
        "error": None, "restorable_until": None,
    }  # fmt: skip


def _step_back(tx: Transaction, holder: ModelView) -> None:
    held = store.held(tx, holder.id) or holder
    store.save(tx, store.changed(held, current=False), ModelSteppedBack)
