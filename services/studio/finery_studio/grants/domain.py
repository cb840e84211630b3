"""Rules of grants (SPEC PR4). Pure: what a grant covers, whom it is for, and what narrows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict, Forbidden, InvalidRequest
from finery_contracts.grants import MAX_GRANTS, Action, GrantChange, GrantView, Target, TargetView

_PLACE = re.compile(r"(s3|file|https?|sql|topic)://([^/?#]*)(/[^?#]*)?")
_NAME = re.compile(r"[A-Za-z0-9\u4e00-\u9fff][A-Za-z0-9\u4e00-\u9fff._-]{0,254}")
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_PORTS = {"http": ":80", "https": ":443"}
_SCHEMES: dict[Action, tuple[str, ...]] = {
    Action.READ: ("s3", "file", "http", "https", "sql"),
    Action.WRITE: ("s3", "file"),
    Action.PUBLISH: ("topic",),
    Action.CALL: ("http", "https"),
}


def check_resource(action: Action, resource: str) -> str:
    """The resource in the one spelling in which it is compared.

    Raises:
        InvalidRequest: ``resource_invalid``; it is none, or nothing that this can be done with.
    """
    matched = _PLACE.fullmatch(resource)
    if matched is None:
        raise _invalid(f"{resource!r} names no place without query: s3://, file://, https://, sql:// or topic://")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in resource):
        raise _invalid(f"{resource!r} holds signs that nobody sees; write it without them")
    scheme, host, path = matched[1], matched[2], (matched[3] or "").rstrip("/")
    if scheme not in _SCHEMES[action]:
        raise _invalid(f"{action} goes with {', '.join(_SCHEMES[action])}, not with {scheme}://")
    parts = path.split("/")
    if any(part in (".", "..") for part in parts) or "%" in path or "\\" in resource:
        raise _invalid("write the path plainly: no part of it is . or .., nothing is encoded")
    if set(parts[-1]) == {"*"}:
        raise _invalid(f"what lies below is meant, too: write {resource.rstrip('*/')} without the *")
    if scheme == "file" and (host or not path or "//" in path):
        raise _invalid("a folder reads file:///data")
    if scheme in _PORTS:
        host = host.lower().removesuffix(_PORTS[scheme])
    fits = True if scheme == "file" else bool((_HOST if scheme in _PORTS else _NAME).fullmatch(host))
    if not fits or (scheme in ("sql", "topic") and path):
        raise _invalid(f"{resource!r} names nothing after {scheme}://, or more than one thing")
    return f"{scheme}://{host}{path}"


def covers(wide: str, narrow: str) -> bool:
    """Whether all of ``narrow`` lies in ``wide``; both as ``check_resource`` spells them."""
    return narrow == wide or narrow.startswith(f"{wide}/")


def target_of(asked: Target) -> TargetView:
    """As it is kept."""
    return TargetView(kind=asked.kind, name=asked.name)


def is_for(target: TargetView, actor: Actor) -> bool:
    """Whether the actor is meant."""
    if target.kind == "everyone":
        return True
    if target.kind == "group":
        return target.name in actor.groups
    return target.name == actor.user and actor.federated == (target.kind == "federated_user")


def allows(grant: GrantView, actor: Actor, action: Action, *, resource: str, now: datetime) -> bool:
    """Whether this grant lets the actor's tasks do that now."""
    alive = grant.expires_at is None or grant.expires_at > now
    return alive and grant.action is action and is_for(grant.target, actor) and covers(grant.resource, resource)


def check_granted(grants: Iterable[GrantView], actor: Actor, action: Action, *, resource: str, now: datetime) -> None:
    """Raises Forbidden ``grant_missing``, which names what is missing, unless a grant allows it."""
    if any(allows(grant, actor, action, resource=resource, now=now) for grant in grants):
        return
    raise Forbidden(
        f"Finery may not {action} {resource} for {actor.user}: no grant says so. The role full gives one with: "
        f"finery grants give {action} {resource}",
        code="grant_missing", param="source",
        details=[{"permission": f"{action} {resource}", "action": str(action), "resource": resource,
                  "user": actor.user}],
    )  # fmt: skip


def check_room(living: int) -> None:
    """Raises Conflict at the limit."""
    if living >= MAX_GRANTS:
        raise Conflict(
            f"the project has {living} grants, {MAX_GRANTS} are the limit; delete one that is not needed",
            code="too_many_grants",
        )


def ends_at(days: int | None, now: datetime) -> datetime | None:
    """When a grant of so many days ends."""
    return None if days is None else now + timedelta(days=days)


def narrowed(grant: GrantView, asked: GrantChange, now: datetime) -> GrantView:
    """The grant with less than before.

    Raises:
        Conflict: ``grant_wider``; in some respect it would allow more.
    """
    resource = check_resource(grant.action, asked.resource) if asked.resource is not None else grant.resource
    target = target_of(asked.target) if asked.target is not None else grant.target
    until = ends_at(asked.days, now) or grant.expires_at
    if not covers(grant.resource, resource):
        raise _wider(f"{resource} does not lie in {grant.resource}")
    if grant.target.kind != "everyone" and target != grant.target:
        raise _wider("its target is somebody else")
    if grant.expires_at is not None and (until is None or until > grant.expires_at):
        raise _wider("it would last longer")
    change = {"resource": resource, "target": target, "expires_at": until, "version": grant.version + 1}
    return grant.model_copy(update=change)


def _wider(reason: str) -> Conflict:
    return Conflict(f"a grant is only ever narrowed, and {reason}; give another one instead", code="grant_wider")


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(reason, code="resource_invalid", param="resource")
