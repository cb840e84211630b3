"""What no database or UTF-8 can keep is refused where a request is read, wherever in it the text stands."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from finery_contracts.model import Request


class Wish(Request):
    name: str = ""
    tags: dict[str, list[str]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    "said", [{"name": "a\0"}, {"name": "\ud800"}, {"tags": {"k": ["v", "\udfff"]}}, {"tags": {"\0": []}}]
)
def test_a_text_that_cannot_be_kept_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="NUL or half of a surrogate pair"):
        Wish.model_validate(said)


def test_every_other_text_is_taken() -> None:
    said: dict[str, Any] = {"name": "ü ☃ 𝄞 \n", "tags": {"日本": ["\x01"]}}
    assert Wish.model_validate(said).name == said["name"]
    assert Wish.model_validate_json('{"name": "\\ud834\\udd1e"}').name == "𝄞"
