"""Fields of a decoded record, taken with the fault they deserve: missing, of the wrong type, empty, not Unicode."""

from __future__ import annotations

from typing import Any

from finery_dataset_ingest.engine.messages import check_encodable, keys_of, kind_of, turns_of
from finery_dataset_ingest.engine.samples import MAX_RECORD, Turn, Wrong


def object_of(record: Any, wanted: str) -> dict[str, Any]:
    """The record as an object; ``wanted`` shows the keys of one. Raises Wrong ``not_an_object``."""
    if isinstance(record, dict):
        return record
    remedy = f"write {wanted} for each record"
    raise Wrong("", "not_an_object", reason=f"the record is {kind_of(record)}, not an object", remedy=remedy)


def required(record: dict[str, Any], key: str) -> Any:
    """The value of a key that must be there. Raises Wrong ``<key>_missing``."""
    if key in record:
        return record[key]
    reason = f"the record has no {key}; its keys: {keys_of(record)}"
    raise Wrong(key, f"{key}_missing", reason=reason, remedy=f"give {key}, or state the format that the records have")


def filled_text(value: Any, where: str) -> str:
    """A text with something in it. Raises Wrong ``content_wrong_type``, ``content_empty`` or ``text_not_unicode``."""
    text = any_text(value, where)
    if not text or text.isspace():
        raise Wrong(where, "content_empty", reason=f"{where} is empty", remedy="write a text or remove the record")
    return text


def any_text(value: Any, where: str) -> str:
    """A text, be it empty. Raises Wrong ``content_wrong_type``, ``record_too_long`` or ``text_not_unicode``."""
    if not isinstance(value, str):
        raise Wrong(where, "content_wrong_type", reason=f"{where} is {kind_of(value)}", remedy="give a text")
    if len(value) > MAX_RECORD:
        reason = f"{where} has {len(value)} characters; at most {MAX_RECORD} are read"
        raise Wrong(where, "record_too_long", reason=reason, remedy="split the record")
    check_encodable(value, where)
    return value


def system_turns(record: dict[str, Any], key: str = "system") -> list[Turn]:
    """The system message that a record may carry beside its conversation, as a list of one or none."""
    value = record.get(key)
    if value is None or value == "":
        return []
    return [Turn("system", filled_text(value, key))]


def checked_turns(messages: Any, field: str) -> list[Turn]:
    """Messages of which every one is right. Raises the first Wrong."""
    turns, wrongs = turns_of(messages, field)
    if wrongs:
        raise wrongs[0]
    return turns


def prompt_turns(value: Any, field: str) -> list[Turn]:
    """A prompt, written as a text or as messages that end with the user's. Raises Wrong."""
    if isinstance(value, str):
        return [Turn("user", filled_text(value, field))]
    turns = checked_turns(value, field)
    if turns[-1].role not in ("user", "tool"):
        where = f"{field}[{len(turns) - 1}].role"
        reason = f"the prompt ends with a message from {turns[-1].role}"
        raise Wrong(where, "prompt_not_from_user", reason=reason, remedy="end the prompt with the user's message")
    return turns
