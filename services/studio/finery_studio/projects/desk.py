"""Making projects and keys, and telling the gateways about keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError
from pydantic import Field

from finery_contracts.access import Actor, ProjectCreated, ProjectView, Role
from finery_contracts.errors import Conflict, NotFound
from finery_contracts.ids import new_id
from finery_contracts.model import Record, UtcTime
from finery_contracts.streams import KV_KEYS
from finery_kit.db import Database, Transaction
from finery_kit.delivery import emit
from finery_kit.idempotency import Asked
from finery_kit.keys import key_hash
from finery_studio.projects import domain, store

log = logging.getLogger("finery.studio")
TELL_EVERY_S = 5.0


class KeyView(Record):
    """A key as it is shown; ``secret`` only in the answer that made it."""

    id: str
    project: str
    user: str
    role: Role
    groups: list[str] = Field(default_factory=list)
    description: str
    hint: str
    created_at: UtcTime
    secret: str | None = None

    def without_secret(self) -> KeyView:
        """What of it is kept."""
        return self.model_copy(update={"secret": None})


@dataclass(frozen=True)
class KeyDesk:
    """Everything about projects and keys that needs the installation's secret."""

    secret: bytes

    def add_project(self, tx: Transaction, name: str) -> ProjectView:
        """A new tenant.

        Raises:
            Conflict: the name is taken.
        """
        domain.check_name(name)
        if store.project_named(tx.session, name) is not None:
            raise Conflict(f"there is a project named {name} already", code="name_taken", param="name")
        view = ProjectView(id=new_id("prj"), name=name, version=1, created_at=tx.now)
        tx.session.add(store.ProjectRow(id=view.id, name=name, created_at=tx.now.isoformat()))
        tx.session.flush()
        emit(tx, ProjectCreated, view.id, project=view.id, version=1, data=view)
        return view

    def add_key(
        self, tx: Transaction, project: str, user: str, *, role: Role, description: str, secret: str | None = None,
        asked: Asked | None = None, groups: Sequence[str] = (),
    ) -> KeyView:  # fmt: skip
        """A new key; only its keyed hash is stored.

        Raises:
            Conflict: five living keys are the limit.
        """
        domain.check_may_add_key(len(store.keys(tx.session, project, user)))
        key_id = new_id("key")
        secret = secret or self.secret_of(key_id, asked)
        row = store.KeyRow(
            id=key_id, project=project, user=user, role=str(role), description=description,
            hint=f"{secret[:6]}…{secret[-4:]}", hash=key_hash(self.secret, secret), created_at=tx.now.isoformat(),
            groups=json.dumps(sorted(set(groups))),
        )  # fmt: skip
        tx.session.add(row)
        return key_view(row).model_copy(update={"secret": secret})

    def secret_of(self, key_id: str, asked: Asked | None) -> str:
        """A new key's secret: chance, or under an Idempotency-Key one that can be told again to whoever has that key.

        For this it is derived from the key's text, which is not kept: no table and no copy of one can tell it.
        """
        if asked is None:
            return f"fk-{secrets.token_urlsafe(32)}"
        said = "\n".join(("new key", asked.project, asked.key, key_id))
        mixed = hmac.new(self.secret, said.encode(), hashlib.sha256).digest()
        return f"fk-{base64.urlsafe_b64encode(mixed).decode().rstrip('=')}"

    def revealed(self, view: KeyView, asked: Asked | None) -> KeyView:
        """The view with its secret, for the request that made it."""
        if view.secret is not None or asked is None:
            return view
        return view.model_copy(update={"secret": self.secret_of(view.id, asked)})

    def revoke(self, tx: Transaction, actor: Actor, key_id: str) -> KeyView:
        """The key stops working; it is never recovered."""
        row = tx.session.get(store.KeyRow, key_id)
        if row is None or row.project != actor.project or row.revoked:
            raise NotFound(f"there is no key {key_id} in this project", code="key_not_found")
        row.revoked, row.told = True, False
        tx.session.add(row)
        return key_view(row)

    async def try_to_tell(self, database: Database, jetstream: JetStreamContext) -> None:
        """The same, where a bus that is away is no error: what is untold stays so."""
        try:
            await self.tell_gateways(database, jetstream)
        except (nats.errors.Error, APIError, TimeoutError) as fault:
            log.warning("keys_wait", extra={"error": repr(fault)})

    async def tell_gateways(self, database: Database, jetstream: JetStreamContext) -> None:
        """Write what changed into the key-value bucket; safe to repeat."""
        changed = await database.read(store.untold_keys)
        if not changed:
            return
        bucket = await jetstream.key_value(KV_KEYS)
        for row, project_name in changed:
            if row.revoked:
                await bucket.delete(row.hash)
            else:
                await bucket.put(row.hash, store.grant_of(row, project_name).model_dump_json().encode())
        states = {row.id: row.revoked for row, _ in changed}

        def mark(tx: Transaction) -> None:
            for key_id, revoked in states.items():
                row = tx.session.get(store.KeyRow, key_id)
                if row is not None and row.revoked == revoked:
                    row.told = True
                    tx.session.add(row)

        await database.write(mark)


async def keep_telling(tell: Callable[[], Awaitable[None]]) -> None:
    """Tell again what could not be told at once. Until cancelled."""
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        await tell()


def key_view(row: store.KeyRow) -> KeyView:
    """The key as it is shown."""
    shown = row.model_dump(exclude={"hash", "told", "revoked", "groups"})
    return KeyView.model_validate({**shown, "groups": json.loads(row.groups)})
