"""Reading canonical Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finery_contracts.errors import DataInvalid
from finery_ml.records import read_conversations

MakeParquet = Callable[..., Path]


def record(number: int) -> dict[str, object]:
    """A question with its answer."""
    return {"messages": [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]}


def test_a_file_is_read_in_its_order_and_no_further_than_the_limit(canonical: MakeParquet) -> None:
    path = canonical([record(number) for number in range(1200)])
    batches = list(read_conversations(path, limit=700))
    assert [len(batch) for batch in batches] == [512, 188]
    assert [found.line for batch in batches for found in batch] == list(range(1, 701))
    assert sum(len(batch) for batch in read_conversations(path)) == 1200


def test_tool_calls_come_back_with_arguments_as_objects_for_the_template(canonical: MakeParquet) -> None:
    # given
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    tools = [{"type": "function", "function": {"name": "add"}}]
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([call])},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2", "weight": 0},
    ]
    # when
    [[found]] = read_conversations(canonical([{"messages": messages, "tools": json.dumps(tools)}]))
    # then
    assert found.tools == tuple(tools)
    assert [message.weight for message in found.messages] == [None, None, None, 0]
    [written] = found.messages[1].for_template()["tool_calls"]
    assert written["function"] == {"name": "add", "arguments": {"a": 1}}
    assert found.messages[2].for_template() == {"role": "tool", "content": "2", "tool_call_id": "c1"}


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b'{"messages": []}'])
def test_a_file_of_another_form_is_refused_with_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    with pytest.raises(DataInvalid, match=r"train\.parquet") as caught:
        list(read_conversations(path))
    assert caught.value.error_code == "canonical_file_unreadable"
