"""What a completion request may say: every fault is named, and what cannot work together is refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finery_contracts.completions import ChatCompletionRequest, CompletionRequest
from finery_contracts.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**parameters: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.validate(json.dumps({"model": "smol", "messages": HELLO, **parameters}).encode())


def refusal(**parameters: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**parameters)
    return caught.value


def test_what_is_left_out_gets_the_defaults_of_the_reference():
    request = chat()
    assert (request.top_k, request.top_p, request.temperature, request.n) == (-1, 1.0, 1.0, 1)
    assert request.length_penalty == 1.0
    assert request.token_budget is None


def test_null_means_left_out():
    assert chat(temperature=None, stop=None, max_tokens=None, seed=None) == chat()


def test_one_stop_string_is_a_list_of_one():
    assert chat(stop="END").stop == ["END"]


def test_text_parts_become_one_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "one\ntwo"


def test_max_completion_tokens_is_the_same_limit_as_max_tokens():
    assert chat(max_completion_tokens=7).token_budget == 7
    assert chat(max_tokens=7).token_budget == 7
    assert chat(max_tokens=7, max_completion_tokens=7).token_budget == 7
    assert refusal(max_tokens=7, max_completion_tokens=8).error_code == "impossible_combination"


def test_a_whole_beam_search_is_taken():
    request = chat(use_beam_search=True, n=2, temperature=0, top_p=1, top_k=-1, length_penalty=1.4)
    assert request.use_beam_search


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"n": 2, "temperature": 0}, "n"),
        ({"n": 2, "top_k": 1}, "n"),
        ({"length_penalty": 1.2}, "length_penalty"),
        ({"use_beam_search": True, "temperature": 0}, "n"),
        ({"use_beam_search": True, "n": 2}, "temperature"),
        ({"use_beam_search": True, "n": 2, "temperature": 0, "top_p": 0.5}, "top_p"),
        ({"use_beam_search": True, "n": 2, "temperature": 0, "top_k": 5}, "top_k"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_combination_that_cannot_work_says_which_parameter_and_why(parameters: dict[str, Any], param: str):
    error = refusal(**parameters)
    assert (error.error_code, error.param) == ("impossible_combination", param)
    assert param in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("max_tokens", True), ("max_tokens", "5"), ("top_k", 0), ("top_k", -2), ("top_p", 0),
        ("top_p", 1.1), ("temperature", -0.1), ("temperature", 2.1), ("n", 0), ("n", 11), ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5), ("stop", 3), ("stop", ["a"] * 17), ("messages", []), ("messages", "hi"),
        ("seed", 1.5), ("stream", "yes"), ("model", ""),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(name: str, value: object):
    error = refusal(**{name: value})
    assert (error.status, error.error_code, error.param) == (400, "invalid_value", name)


def test_a_fault_inside_a_list_is_named_with_its_place():
    assert refusal(stop=["a", ""]).param == "stop[1]"
    assert refusal(messages=[*HELLO, {"role": "wizard", "content": "x"}]).param == "messages[1].role"
    image = {"type": "image_url", "image_url": {"url": "x"}}
    assert refusal(messages=[{"role": "user", "content": [image]}]).param == "messages[0].content"


def test_all_faults_are_named_at_once():
    error = refusal(temperature=9, top_p=9, tools=[{"type": "function"}], maxtokens=3)
    assert {detail["param"] for detail in error.details} == {"temperature", "top_p", "tools", "maxtokens"}
    assert error.error_code == "invalid_request"


def test_parameters_without_effect_are_ignored():
    assert chat(user="u", metadata={"a": "b"}, store=True, service_tier="auto") == chat()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("logprobs", True),
        ("logprobs", 0),
        ("logit_bias", {"1": 5}),
    ],
)
def test_what_would_change_the_answer_and_is_not_obeyed_is_refused(name: str, value: object):
    error = refusal(**{name: value})
    assert (error.error_code, error.param) == ("unsupported_parameter", name)


def test_the_neutral_values_of_unsupported_parameters_are_taken():
    assert chat(tools=[], response_format={"type": "text"}, logprobs=False, logit_bias={}, tool_choice="none") == chat()


def test_a_typing_mistake_is_seen():
    assert refusal(max_token=5).error_code == "unknown_parameter"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff", b'{"model": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes):
    with pytest.raises(InvalidRequest):
        ChatCompletionRequest.validate(body)


def test_a_missing_parameter_is_named():
    with pytest.raises(InvalidRequest) as caught:
        ChatCompletionRequest.validate({"messages": HELLO})
    assert (caught.value.error_code, caught.value.param) == ("missing_required_parameter", "model")


@pytest.mark.parametrize(
    ("prompt", "read"),
    [("text", "text"), (["text"], "text"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2])],
)
def test_a_prompt_is_a_text_or_token_numbers(prompt: object, read: object):
    assert CompletionRequest.validate({"model": "smol", "prompt": prompt}).prompt == read


@pytest.mark.parametrize("prompt", [[], ["a", "b"], [1, "a"], [-1], 5, [True], [[1], [2]]])
def test_several_prompts_or_none_are_refused(prompt: object):
    with pytest.raises(InvalidRequest) as caught:
        CompletionRequest.validate({"model": "smol", "prompt": prompt})
    assert caught.value.param == "prompt"
