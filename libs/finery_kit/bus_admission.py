"""Projects and the bus: nats-server asks who a project's credential is, studio answers (auth callout, NATS ADR-26).

Services stand in the server's own configuration, projects do not: they come at run time, and a server that reads its
configuration again refuses whoever connects in that moment. Any replica answers, from the installation's secret alone.
"""

# nkeys has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import nkeys
from faststream.nats import NatsBroker, NatsMessage

from finery_contracts.ids import new_id
from finery_contracts.permissions import ADMISSION, Grant, project_grant
from finery_kit.bus import raw_decoder

ACCOUNT = "$G"
"""The account of the services' users, where projects belong as well."""
PROJECT_PREFIX = "prj_"
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def bus_password(secret: bytes, user: str) -> str:
    """A user's password, derived from the installation's secret: nothing to store, nothing to lose."""
    return hmac.new(secret, f"bus:{user}".encode(), hashlib.sha256).hexdigest()


def issuer_name(secret: bytes) -> str:
    """The public key whose signature the server is told to trust."""
    return _issuer(secret).public_key.decode()


def listen(broker: NatsBroker, service: str, secret: bytes) -> None:
    """Answer the server's questions; replicas share them."""

    async def on_question(body: bytes, msg: NatsMessage) -> bytes:
        return answer(secret, body)

    broker.subscriber(ADMISSION, queue=service, decoder=raw_decoder, title=f"{service}.admission")(on_question)


def answer(secret: bytes, question: bytes) -> bytes:
    """A signed answer to a signed question: the project's grant, or why there is none.

    The question's signature is not checked: nobody but the server may say that subject.
    """
    asked = _claims_of(question)
    told: dict[str, Any] = asked["nats"]
    key = told["user_nkey"]
    user, password = (str(told["connect_opts"].get(field) or "") for field in ("user", "pass"))
    if user.startswith(PROJECT_PREFIX) and hmac.compare_digest(password.encode(), bus_password(secret, user).encode()):
        admitted = _signed(secret, sub=key, aud=ACCOUNT, name=user, nats=_permissions(project_grant(user)))
        outcome = {"jwt": admitted}
    else:
        outcome = {"error": "neither a service nor a project with this password"}
    meant_for = told["server_id"]["id"]
    return _signed(
        secret, sub=key, aud=meant_for, nats=outcome | {"type": "authorization_response", "version": 2}
    ).encode()


def _permissions(grant: Grant) -> dict[str, Any]:
    unlimited = dict.fromkeys(("subs", "data", "payload"), -1)
    allowed = {"pub": {"allow": [*grant.publish]}, "sub": {"allow": [*grant.subscribe]}}
    return allowed | unlimited | {"type": "user", "version": 2}


def _issuer(secret: bytes) -> nkeys.KeyPair:
    seed = hmac.new(secret, b"bus-issuer", hashlib.sha256).digest()
    return nkeys.from_seed(nkeys.encode_seed(seed, nkeys.PREFIX_BYTE_ACCOUNT))


def _claims_of(token: bytes) -> dict[str, Any]:
    payload = token.split(b".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))


def _signed(secret: bytes, **claims: Any) -> str:
    issuer = _issuer(secret)
    claims |= {"iss": issuer.public_key.decode(), "iat": int(time.time()), "jti": new_id("jti")}
    said = ".".join(_part(json.dumps(part).encode()) for part in (_HEADER, claims))
    return f"{said}.{_part(issuer.sign(said.encode()))}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
