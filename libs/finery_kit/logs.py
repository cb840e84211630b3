"""Structured logs: one JSON line an event, with the ids that were passed; never prompts, records or keys."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET = re.compile(
    r"(fk-[\w-]{8})[\w-]+|(whsec_)[\w+/=-]+|(://[^:/@\s]+:)[^@\s]+@|((?i:bearer|basic) )[\w.~+/=-]{8,}|(eyJ)[\w.-]{16,}"
)
MAX_BYTES = 20 * 2**20


class JsonLines(logging.Formatter):
    """A record as one line; whatever looks like a secret is cut."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(line, default=str))


def without_secrets(text: str) -> str:
    """The text, with whatever looks like a key or a password cut."""
    return _SECRET.sub(lambda m: next(filter(None, m.groups())) + "…", text)


def set_up_logs(file: Path | None, level: str) -> logging.Handler:
    """Log to a file that turns over, or to standard error; the answer is for whoever wants to close it."""
    handler: logging.Handler = (
        logging.handlers.RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=3)
        if file is not None
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("finery").setLevel(level)
    return handler
