"""Rows that have named columns, as a file of people's data: the names say which format it is.

The columns of a table (human, assistant, and conversation_id or none) become CSV; anything else becomes JSON lines,
each row an object, so that ``messages`` or ``instruction`` mean there what they mean in a file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_ml.sources.landing import Arrival

TABLE = ("conversation_id", "human", "assistant")
NESTED = ("messages", "tools", "chat", "conversations", "chosen", "rejected", "prompt")
"""Columns in which a text that is JSON stands for what it says."""


class RowWriter:
    """Writes rows into a file that is arriving. ``columns`` None: each row names its own."""

    def __init__(self, columns: Sequence[str] | None, arrival: Arrival) -> None:
        doubled = sorted({name for name in columns or () if (columns or ()).count(name) > 1})
        if doubled:
            raise InvalidRequest(
                f"columns need names of their own: {', '.join(doubled)} comes twice; write AS name after each",
                code="columns_unclear", param="source",
            )  # fmt: skip
        self._arrival, self._as_table = arrival, columns is not None and is_table(columns)
        self.rows = 0
        if self._as_table:
            self._line(TABLE)

    def add(self, row: Mapping[str, Any]) -> None:
        """One row.

        Raises:
            DataInvalid: a value has no place in a file of text.
        """
        self.rows += 1
        if self._as_table:
            self._line([row.get("conversation_id", self.rows), row["human"], row["assistant"]])
            return
        told = {name: _nested(name, value) for name, value in row.items() if value is not None}
        text = json.dumps(told, ensure_ascii=False, default=self._plain)
        self._arrival.write(text.encode("utf-8", "replace") + b"\n")

    def _line(self, values: Sequence[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow("" if value is None else value for value in values)
        self._arrival.write(line.getvalue().encode("utf-8", "replace"))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, datetime | date | UUID):
            return str(value)
        if isinstance(value, Decimal):
            return int(value) if value == value.to_integral_value() else float(value)
        raise DataInvalid(
            f"row {self.rows} holds a value of the type {type(value).__name__}; cast it to text in the query",
            code="value_not_text",
        )


def is_table(columns: Collection[str]) -> bool:
    """Whether these are the columns of a table; without conversation_id each row is a conversation."""
    return {"human", "assistant"} <= set(columns) <= set(TABLE)


def _nested(name: str, value: Any) -> Any:
    if name not in NESTED or not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
