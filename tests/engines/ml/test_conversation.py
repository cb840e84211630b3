"""The loss mask, token by token, on SmolLM2's own tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from finery_contracts.errors import DataInvalid, WeightsInvalid
from finery_ml.conversation import IGNORED, Sample, check_template, encode, prompt_text
from finery_ml.loading import load_tokenizer
from finery_ml.records import Conversation, Message

SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"


@pytest.fixture
def tokenizer(smollm2_tokenizer: Path) -> PreTrainedTokenizerBase:
    """Loaded anew for each test, since some change its template."""
    return load_tokenizer(smollm2_tokenizer)


def conversation(*turns: tuple[str, str], weights: dict[int, int] | None = None, **fields: Any) -> Conversation:
    """A conversation of (role, content) turns after the system message ``Be brief.``"""
    messages = [Message("system", "Be brief.")]
    messages += [
        Message(role, content, weight=(weights or {}).get(place)) for place, (role, content) in enumerate(turns)
    ]
    return Conversation(line=7, messages=tuple(messages), **fields)


def trained(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that train, as text; checks on the way that each label is its own token."""
    kept = [label for label in sample.labels if label != IGNORED]
    assert all(label in (IGNORED, token) for token, label in zip(sample.input_ids, sample.labels, strict=True))
    return [tokenizer.decode([token]) for token in kept]


def test_a_single_answer_trains_with_its_end_of_turn_token_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    # given
    record = conversation(("user", "Capital of France?"), ("assistant", "Paris, surely."))
    # when
    [sample] = encode([record], tokenizer, max_length=512)
    # then
    text = SYSTEM + "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\nParis, surely.<|im_end|>\n"
    assert tokenizer.decode(sample.input_ids) == text
    assert trained(sample, tokenizer) == ["Paris", ",", " surely", ".", "<|im_end|>"]
    expected = [IGNORED] * (len(sample.input_ids) - 6) + sample.input_ids[-6:-1] + [IGNORED]
    assert sample.labels == expected


def test_what_the_model_reads_before_an_answer_is_exactly_the_prompt_it_gets_when_it_is_asked(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    record = conversation(("user", "Capital of France?"), ("assistant", "Paris"))
    [sample] = encode([record], tokenizer, max_length=512)
    prompt = tokenizer(prompt_text(record, tokenizer, turns=2), add_special_tokens=False)["input_ids"]
    first = next(place for place, label in enumerate(sample.labels) if label != IGNORED)
    assert sample.input_ids[:first] == prompt


def test_every_answer_of_a_conversation_trains_and_no_question_does(tokenizer: PreTrainedTokenizerBase) -> None:
    # given
    record = conversation(
        ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2"), ("user", "Three?")
    )
    # when
    [sample] = encode([record], tokenizer, max_length=512)
    # then
    assert trained(sample, tokenizer) == ["1", "<|im_end|>", "2", "<|im_end|>"]
    answers = [place for place, label in enumerate(sample.labels) if label != IGNORED]
    before = [tokenizer.decode(sample.input_ids[place - 3 : place]) for place in (answers[0], answers[2])]
    assert before == ["assistant\n", "assistant\n"]


def test_an_answer_of_weight_zero_is_shown_and_not_trained(tokenizer: PreTrainedTokenizerBase) -> None:
    record = conversation(
        ("user", "One?"), ("assistant", "wrong"), ("user", "Two?"), ("assistant", "2"), weights={1: 0, 3: 1}
    )
    [sample] = encode([record], tokenizer, max_length=512)
    assert trained(sample, tokenizer) == ["2", "<|im_end|>"]
    assert "wrong" in tokenizer.decode(sample.input_ids)


def test_white_space_and_letters_of_many_bytes_in_an_answer_train_too(tokenizer: PreTrainedTokenizerBase) -> None:
    record = conversation(("user", "?"), ("assistant", "α 🙂\n\nx  "))
    [sample] = encode([record], tokenizer, max_length=512)
    kept = [label for label in sample.labels if label != IGNORED]
    assert tokenizer.decode(kept) == "α 🙂\n\nx  <|im_end|>"


def test_a_cut_sample_says_so_and_one_whose_answer_is_cut_away_trains_nothing(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    # given
    short, long = (
        conversation(("user", "?"), ("assistant", "yes")),
        conversation(("user", "a " * 50), ("assistant", "yes")),
    )
    # when
    whole, cut = encode([short, long], tokenizer, max_length=40)
    # then
    assert (whole.truncated, whole.trains) == (False, True)
    assert (cut.truncated, cut.trains, len(cut.input_ids)) == (True, False, 40)


def test_a_template_that_rewrites_earlier_turns_is_refused_with_its_code(tokenizer: PreTrainedTokenizerBase) -> None:
    # given a template that shows only the last answer, as some reasoning models do
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    single = conversation(("user", "One?"), ("assistant", "1"))
    several = conversation(("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2"))
    # when
    [sample] = encode([single], tokenizer, max_length=512)
    with pytest.raises(DataInvalid) as caught:
        encode([several], tokenizer, max_length=512)
    # then
    assert trained(sample, tokenizer) == ["1", "<|im_end|>"]
    assert caught.value.error_code == "template_not_prefix_preserving"
    assert caught.value.param == "line 7, messages[2]"


def test_a_record_that_the_template_refuses_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataInvalid, match="line 7: roles must alternate") as caught:
        encode([conversation(("user", "?"), ("assistant", "!"))], tokenizer, max_length=512)
    assert caught.value.error_code == "template_refused_record"


def test_tools_are_refused_where_the_template_would_drop_them(tokenizer: PreTrainedTokenizerBase) -> None:
    record = conversation(("user", "?"), ("assistant", "!"), tools=({"type": "function"},))
    with pytest.raises(DataInvalid) as caught:
        encode([record], tokenizer, max_length=512)
    assert caught.value.error_code == "template_without_tools"


def test_a_model_without_a_chat_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(WeightsInvalid) as caught:
        check_template(tokenizer)
    assert caught.value.error_code == "chat_template_missing"
