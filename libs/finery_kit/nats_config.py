"""nats-server's configuration as text, rendered from the table of permissions. It is told passwords, it makes none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable

from finery_contracts.errors import InvalidRequest
from finery_contracts.permissions import Grant, grants
from finery_contracts.streams import MAX_MESSAGE_BYTES
from finery_kit.bus_admission import issuer_name

MAX_FILE_STORE = "20GB"
SECRET_BYTES = 32
ISSUER_VARIABLE = "FINERY_BUS_ISSUER"
"""The environment variable that holds the public key of whoever admits projects."""


def server_config(
    listen: str, monitor: str, store: str, issuer: str, password: Callable[[str], str],
    *, max_file_store: str = MAX_FILE_STORE,
) -> str:  # fmt: skip
    """The whole file. ``password`` gives what stands after ``password:``, a quoted word or a variable.

    Who is no service is asked about; ``issuer`` is the public key that signs the answers.
    """
    users = grants()
    listed = "\n".join(_user(grant, password(grant.user)) for grant in users)
    known = ", ".join(grant.user for grant in users)
    return f"""\
listen: {listen}
http: {monitor}
max_payload: {MAX_MESSAGE_BYTES}
jetstream {{
  store_dir: {json.dumps(store)}
  sync_interval: always
  max_file_store: {max_file_store}
}}
authorization {{
  users: [
{listed}
  ]
  auth_callout {{
    issuer: {issuer}
    auth_users: [{known}]
  }}
}}
"""


def shared_config() -> str:
    """For containers: every password is taken from the server's environment."""
    head = "# Rendered by `finery bus-config` from finery_contracts/permissions.py; a test compares the two.\n"
    return head + server_config(
        "0.0.0.0:4222", "0.0.0.0:8222", "/data", f"${ISSUER_VARIABLE}", lambda user: f"${password_variable(user)}"
    )


def secrets_for(installation_secret: str | None) -> str:
    """Lines of an .env file: a new random password for each service, and the key of whoever admits projects."""
    try:
        secret = bytes.fromhex(installation_secret or "")
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise InvalidRequest(
            f"the installation's secret must be {SECRET_BYTES * 2} hex digits, for projects are admitted by a key that "
            "is derived from it; set FINERY_INSTALLATION_SECRET or say --secret",
            code="secret_wrong",
        )
    # A letter first: the broker would read digits as a number.
    drawn = {password_variable(grant.user): f"p{secrets.token_hex(24)}" for grant in grants()}
    return "".join(f"{name}={value}\n" for name, value in (drawn | {ISSUER_VARIABLE: issuer_name(secret)}).items())


def password_variable(user: str) -> str:
    """The environment variable that holds a user's password where the configuration is a file that many may read."""
    return "FINERY_BUS_PASSWORD_" + user.upper().replace("-", "_")


def _user(grant: Grant, password: str) -> str:
    answers = '\n      allow_responses: {max: 1000, expires: "5m"}' if grant.answers else ""
    return f"""\
    {{user: {grant.user}, password: {password}, permissions: {{
      publish: {{allow: {_subjects(grant.publish)}}}
      subscribe: {{allow: {_subjects(grant.subscribe)}}}{answers}
    }}}}"""


def _subjects(subjects: Iterable[str]) -> str:
    return "[" + ", ".join(json.dumps(subject) for subject in dict.fromkeys(subjects)) + "]"
