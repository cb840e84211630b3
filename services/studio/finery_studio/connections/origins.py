"""Sources of data and of weights that have to be fetched: checked at submit, kept sealed beside what is made of them,
and opened only for the worker that claims the task.

What a task's row, its facts and its views hold of a source is what anybody may see. It refuses a source that no grant
lets the asker's tasks read, when it is asked for and again when a worker comes for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from finery_contracts.access import Actor
from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.grants import Action
from finery_contracts.jobs import ImportSpec, IngestSpec, TaskKind
from finery_contracts.model import Record
from finery_contracts.sources import (
    Fetched,
    FileSource,
    HttpSource,
    Limits,
    LogSource,
    Origin,
    S3Source,
    SqlSource,
    shown,
)
from finery_contracts.work import Claim
from finery_kit.db import Transaction
from finery_kit.netguard import Network, check_spelling
from finery_kit.sealing import SealBroken, seal, unseal
from finery_studio.connections import store as connection_store
from finery_studio.datasets import store as dataset_store
from finery_studio.datasets.roots import allowed_path
from finery_studio.grants import handlers as grants
from finery_studio.models import store as model_store
from finery_studio.tasks import store as task_store

SELECT = re.compile(r"(?:\s|\(|--[^\n]*\n|(?>/\*.*?\*/))*+(select|with|values)\b", re.IGNORECASE | re.DOTALL)
"""Comments and brackets may stand before; what a query does is judged by the database, which only reads."""
CLIMBS = re.compile(r"(^|[/\\])\.{1,2}([/\\]|$)")


class Keeper(Protocol):
    """The row of a dataset or model that is made of what is fetched."""

    id: str
    origin: str | None
    sealed: str | None


class Kept(Record):
    """What is sealed there: the source as it was given, and who asked."""

    source: Fetched
    resource: str
    connection: str | None = None
    actor: Actor


@dataclass(frozen=True)
class Checked:
    """A source that may be fetched."""

    origin: Origin
    kept: Kept


@dataclass(frozen=True)
class OriginDesk:
    """What checking a source needs."""

    secret: bytes
    roots: tuple[Path, ...]
    allow: tuple[Network, ...]
    limits: Limits

    def check(self, tx: Transaction, source: Any, actor: Actor) -> Checked:
        """The source, if it may be fetched for this actor; nothing is connected to.

        Raises:
            InvalidRequest, NotFound: it is none.
            Forbidden: ``grant_missing`` or ``path_not_allowed``.
        """
        connection: connection_store.ConnectionRow | None = None
        if isinstance(source, FileSource | LogSource):
            source, resource = self._file(source)
        elif isinstance(source, HttpSource):
            resource = self._address(source)
        else:
            connection = _connection(tx, source, actor.project)
            resource = source.url.rstrip("/") if isinstance(source, S3Source) else f"sql://{connection.name}"
        grants.check(tx, actor, Action.READ, resource=resource)
        endpoint = connection_store.view_of(connection).endpoint if connection is not None else None
        limits = self.limits.model_copy(
            update={
                "roots": [str(root.resolve()) for root in self.roots], "allow_networks": [str(n) for n in self.allow]
            }
        )  # fmt: skip
        kept = Kept(
            source=source, resource=resource, connection=connection.id if connection is not None else None, actor=actor
        )
        return Checked(Origin(source=shown(source), endpoint=endpoint, limits=limits), kept)

    def keep(self, tx: Transaction, row: Keeper, checked: Checked) -> None:
        """Beside what is made of it: the open part as it is, the rest sealed."""
        row.origin = checked.origin.model_dump_json()
        row.sealed = seal(self.secret, row.id, checked.kept.model_dump_json())
        tx.session.add(row)
        tx.session.flush()

    def source_of(self, row: Keeper) -> Any:
        """The source that something was made of, whole; None for what was not fetched.

        Raises:
            SealBroken: the installation has another secret now.
        """
        if row.sealed is None:
            return None
        return Kept.model_validate_json(unseal(self.secret, row.id, row.sealed)).source

    def fill(self, tx: Transaction, claim: Claim) -> Claim:
        """The claim with what opens its source, or with the reason why it is not opened any more."""
        spec = claim.spec
        if not isinstance(spec, IngestSpec | ImportSpec) or spec.origin is None:
            return claim
        filled = spec.origin.model_copy(update=self._opening(tx, claim.task_id))
        return claim.model_copy(update={"spec": spec.model_copy(update={"origin": filled})})

    def _opening(self, tx: Transaction, task_id: str) -> dict[str, Any]:
        row = _keeper_of(tx, task_id)
        try:
            kept = Kept.model_validate_json(unseal(self.secret, row.id, row.sealed or ""))
            grants.check(tx, kept.actor, Action.READ, resource=kept.resource)
            secret = dict[str, str]()
            if kept.connection is not None:
                connection = tx.session.get(connection_store.ConnectionRow, kept.connection)
                if connection is None:
                    return {"denied": "its connection was deleted; register it again and submit the task anew"}
                secret = connection_store.secret_of(connection, self.secret)
        except Forbidden as fault:
            return {"denied": fault.message}
        except SealBroken:
            return {"denied": "the installation has another secret now; register the connection and submit it again"}
        return {"source": kept.source, "secret": secret}

    def _file(self, source: FileSource | LogSource) -> tuple[Any, str]:
        """With the real path, and what must be granted: for logs the folder."""
        if isinstance(source, FileSource):
            path = allowed_path(source.url, self.roots, param="source", folders=True)
            return source.model_copy(update={"url": f"file://{path}"}), f"file://{path}"
        folder, _, names = source.url.rpartition("/")
        if not names or any(sign in folder for sign in "*?["):
            raise InvalidRequest(
                f"{source.url}: * and ? may stand in the last part alone, after a folder", code="path_invalid",
                param="source",
            )  # fmt: skip
        real = allowed_path(folder, self.roots, param="source", folders=True)
        return source.model_copy(update={"url": f"file://{real}/{names}"}), f"file://{real}"

    def _address(self, source: HttpSource) -> str:
        origin = check_spelling(source.url, allow=self.allow)
        path = urlsplit(source.url).path
        if CLIMBS.search(unquote(unquote(path))):
            raise InvalidRequest(f"{source.url}: write the path without . and ..", code="url_invalid", param="source")
        return origin.removesuffix(":443" if origin.startswith("https") else ":80") + path.rstrip("/")


def _keeper_of(tx: Transaction, task_id: str) -> Keeper:
    """What a task is to make."""
    row = task_store.held(tx.session, task_id)
    assert row is not None
    task = task_store.view_of(row)
    if task.kind is TaskKind.IMPORT:
        return model_store.row_of(tx.session, task.request["model"])
    return dataset_store.row_of(tx.session, task.request["dataset"])


def _connection(tx: Transaction, source: S3Source | SqlSource, project: str) -> connection_store.ConnectionRow:
    """The connection that a source means.

    Raises:
        NotFound, InvalidRequest: there is none, or it is of another kind.
    """
    wanted = ("s3",) if isinstance(source, S3Source) else ("postgres", "sqlite")
    if isinstance(source, SqlSource) and not SELECT.match(source.query):
        raise InvalidRequest("a query begins with SELECT, WITH or VALUES", code="query_not_a_select", param="source")
    if source.connection is None:
        fitting = [v for v in connection_store.of_project(tx.session, project) if v.endpoint.kind in wanted]
        if len(fitting) != 1:
            raise InvalidRequest(
                f"the project has {len(fitting)} connections to object stores: say which one, or register one with: "
                "finery connections add-s3",
                code="connection_needed", param="source",
            )  # fmt: skip
        return connection_store.load(tx.session, project, fitting[0].id)
    row = connection_store.load(tx.session, project, source.connection)
    kind = connection_store.view_of(row).endpoint.kind
    if kind not in wanted:
        raise InvalidRequest(
            f"connection {row.name} is of the kind {kind}, this source needs {' or '.join(wanted)}",
            code="connection_of_other_kind", param="source",
        )  # fmt: skip
    return row
