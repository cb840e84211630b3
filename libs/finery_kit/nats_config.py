"""nats-server's configuration as text, rendered from the table of permissions. It is told passwords, it makes none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from finery_contracts.permissions import HOUSE, Grant, grants
from finery_contracts.streams import MAX_MESSAGE_BYTES

MAX_FILE_STORE = "20GB"


def server_config(
    listen: str, monitor: str, store: str, users: Iterable[Grant], password: Callable[[str], str],
    *, max_file_store: str = MAX_FILE_STORE,
) -> str:  # fmt: skip
    """The whole file. ``password`` gives what stands after ``password:``, a quoted word or a variable."""
    listed = "\n".join(_user(grant, password(grant.user)) for grant in users)
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
}}
"""


def shared_config() -> str:
    """For containers: every password is taken from the server's environment."""
    head = "# Rendered by `finery bus-config` from finery_contracts/permissions.py; a test compares the two.\n"
    users = [grant for grant in grants() if grant.user != HOUSE]
    return head + server_config("0.0.0.0:4222", "0.0.0.0:8222", "/data", users, lambda u: f"${password_variable(u)}")


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
