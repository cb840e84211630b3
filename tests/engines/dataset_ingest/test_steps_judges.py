"""Steps that look at one record at a time: length, language, missing values, quality, words, relevance."""

from __future__ import annotations

import time
from typing import Any

import pytest
from canonical_builders import batch_of, chat, pair, removed, text, turn, why

from finery_contracts.cleansing import Blocked, Languages, Length, Missing, Personal, Quality, Relevance
from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.steps.languages import language_judge, language_of
from finery_dataset_ingest.engine.steps.lengths import length_judge
from finery_dataset_ingest.engine.steps.missing import missing_judge
from finery_dataset_ingest.engine.steps.personal import personal_judge
from finery_dataset_ingest.engine.steps.quality import quality_judge
from finery_dataset_ingest.engine.steps.texts import texts_of
from finery_dataset_ingest.engine.steps.verdicts import Judge
from finery_dataset_ingest.engine.steps.words import blocked_judge, relevance_judge

CHAIN_LETTER = "The meeting is on Monday, and everybody who works here is invited to it.\n"


def length(**said: Any) -> Judge:
    return length_judge(Length.model_validate({"step": "length", **said}), None)


def language(*keep: str, **said: Any) -> Judge:
    return language_judge(Languages.model_validate({"step": "language", "keep": list(keep), **said}))


def missing(**said: Any) -> Judge:
    return missing_judge(Missing.model_validate({"step": "missing", **said}))


def quality(**said: Any) -> Judge:
    return quality_judge(Quality.model_validate({"step": "quality", **said}))


def blocked(**said: Any) -> Judge:
    return blocked_judge(Blocked.model_validate({"step": "blocked", **said}))


def relevant(**said: Any) -> Judge:
    return relevance_judge(Relevance.model_validate({"step": "relevance", **said}))


def test_lengths_are_inclusive_and_of_the_part_that_is_named() -> None:
    records = [text("x" * n) for n in (1, 2, 5, 6)]
    assert removed(length(min=2, max=5), *records) == {0: "too_short", 3: "too_long"}
    talk = chat("a long question it is", "yes")
    assert removed(length(of="answer", max=3), talk) == {}
    assert removed(length(of="answer", max=2), talk) == {0: "too_long"}
    assert removed(length(of="prompt", min=30), talk) == {0: "too_short"}
    five_and_five = chat("hello", "world")
    assert removed(length(min=10, max=10), five_and_five, chat("hello", "you")) == {1: "too_short"}


def test_turns_words_and_chinese_words_are_counted() -> None:
    many = {"messages": [turn("user", "a"), turn("assistant", "b")] * 3}
    assert removed(length(unit="turns", max=4), many, chat("a")) == {0: "too_long"}
    assert removed(length(unit="words", min=4), text("one two three"), text("一二三四"), text("a b, c d")) == {
        0: "too_short"
    }
    assert why(length(unit="words", min=9), text("one two three")).detail == "3 words, at least 9 are wanted"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("你好", "zh"), ("请把 Python 3.11 安装好", "zh"), ("他说 OK 了吗？", "zh"), ("Hi!", "en"),
        ("What is the capital of France?", "en"), ("これは日本語の文章です", "ja"), ("안녕하세요 반갑습니다", "ko"),
        ("Wie komme ich am schnellsten zum Bahnhof, und was kostet die Fahrt?", "de"),
        ("Je voudrais savoir à quelle heure part le prochain train pour Lyon.", "fr"),
        ("The word 你好 means hello in Chinese, and it is easy to say.", "en"),
        ("Как добраться до ближайшей станции метро отсюда?", "ru"),
        ("1234 5678 !?", None), ("", None), ("https://example.com/eine/deutsche/seite", None),
    ],
)  # fmt: skip
def test_a_language_is_told_also_of_short_texts(said: str, wanted: str | None) -> None:
    assert language_of(said)[0] == wanted


def test_other_languages_go_and_what_has_none_stays_unless_it_is_to_go() -> None:
    records = [text("今天天气很好，我们去公园吧"), text("It is a very fine day today, is it not?"), text("42"),
               text("Heute ist wirklich ein sehr schöner Tag, nicht wahr?")]  # fmt: skip
    assert removed(language("zh", "en"), *records, text("good night")) == {3: "other_language"}
    assert removed(language("en"), text("The answer is 42."), text("Thanks a lot"), text("ok")) == {}
    assert removed(language("zh", unknown="drop"), *records) == {
        1: "other_language", 2: "language_unknown", 3: "other_language",
    }  # fmt: skip
    assert why(language("zh"), records[3]).detail.startswith("de, confidence ")


CALL = '[{"id": "call_1", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris, France\\"}"}}]'


def test_what_a_tool_is_called_with_is_neither_language_nor_symbols_of_a_record() -> None:
    turns = [turn("user", "巴黎今天的天气怎么样？"), turn("assistant", "", tool_calls=CALL), turn("assistant", "晴。")]
    assert removed(language("zh", unknown="drop"), {"messages": turns}) == {}
    marks = {"messages": [turn("user", "ab"), turn("assistant", "", tool_calls='"[[[[{{{{]]]]}}}}"')]}
    assert removed(quality(), marks) == {}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (chat("a", "b"), None), (chat("a", "  "), "empty_side"), (chat("", "b"), "empty_side"),
        (chat("a", "N/A"), "empty_side"), (chat("a", "无"), "empty_side"), (chat("Is it null?", "null and void"), None),
        ({"messages": [turn("user", "a")]}, "empty_side"),
        ({"messages": [turn("user", "a"), turn("assistant", "", tool_calls="[{}]")]}, None),
        ({"messages": [turn("system", "s"), turn("assistant", "b")]}, "empty_side"),
        (pair("q", "a", "b"), None), (pair("q", "a", ""), "empty_side"),
        ({**pair("q", "a", "b"), "rejected": None}, "empty_side"),
        ({"messages": [turn("user", "1+1?")], "answer": "2"}, None),
        ({"messages": [turn("user", "1+1?")], "answer": " "}, "empty_side"),
        (text("some"), None), (text("\n"), "empty_side"),
    ],
)  # fmt: skip
def test_every_kind_of_record_needs_its_sides(record: dict[str, Any], reason: str | None) -> None:
    assert removed(missing(), record).get(0) == reason


def test_fields_that_are_asked_for_must_be_there() -> None:
    judge = missing(fields=["label", "system"])
    system = {"messages": [turn("system", "Be kind."), *chat("a")["messages"]]}
    assert removed(judge, chat("a", label=False), {**system, "label": False}, system) == {
        0: "missing_field", 2: "missing_field",
    }  # fmt: skip
    assert why(judge, chat("a")).detail == "label, system"


def test_symbols_and_repetition_are_hardly_language() -> None:
    assert removed(
        quality(),
        text("A plain sentence, with (some) marks."), text("$$$ ### @@@ !!! ab"), text("这是一句正常的话，没有问题。"),
        text("ha" * 100), text("\n".join(["same line"] * 6 + ["another"])), text("total = price + tax"),
    ) == {1: "symbols", 3: "repetition", 4: "repeated_lines"}  # fmt: skip
    assert removed(quality(max_symbol_ratio=None), text("$$$ ### @@@ !!! ab")) == {}


def test_lines_that_every_page_carries_are_cut_out_or_their_record_goes() -> None:
    page = text(
        f"{CHAIN_LETTER}版权所有 © 2024 某某公司\nClick here to subscribe!\nThis site uses cookies to improve it.\n"
    )
    found = quality()(batch_of(page))
    assert found.batch.column("text")[0].as_py() == CHAIN_LETTER.strip()
    assert (found.removed, found.changed[0].reason) == ({}, "boilerplate")
    assert removed(quality(boilerplate="drop"), page, text(CHAIN_LETTER)) == {0: "boilerplate"}
    assert removed(quality(), text("点击查看更多")) == {0: "boilerplate"}
    assert quality(boilerplate="ignore")(batch_of(page)).batch.column("text")[0].as_py() == page["text"]
    told = quality(boilerplate_lines=["The  MEETING is on Monday, and everybody who works here is invited to it."])
    assert removed(told, text(CHAIN_LETTER)) == {0: "boilerplate"}


def test_a_record_goes_whose_answer_was_nothing_but_such_lines() -> None:
    left = quality()(batch_of(chat("How do I get there?", "Click here."), chat("How?", "By bus.\nBack to top")))
    assert {row: why.reason for row, why in left.removed.items()} == {0: "boilerplate"}
    assert list(left.changed) == [1]
    assert removed(quality(), pair("Where is it?", "Over there.", "Read more")) == {0: "boilerplate"}


def test_a_sentence_that_only_speaks_of_cookies_stays() -> None:
    said = "My grandmother bakes the best cookies; click here is what the mouse said. 他点击了三次鼠标。"
    assert quality()(batch_of(text(said))).batch.column("text")[0].as_py() == said


def test_blocked_words_are_whole_ones_and_chinese_ones_stand_anywhere() -> None:
    records = [
        text("What the FUCK is this"),
        text("Scunthorpe and the Pennines"),
        text("你这个傻逼玩意"),
        text("去公园"),
    ]
    assert removed(blocked(), *records) == {0: "blocked_word", 2: "blocked_word"}
    assert removed(blocked(shipped=["zh"]), *records) == {2: "blocked_word"}
    own = blocked(shipped=[], words=["Rival Ltd", "竞品"])
    assert removed(own, text("ask rival  ltd."), text("rival ltda"), text("不要说竞品的事")) == {
        0: "blocked_word",
        2: "blocked_word",
    }
    assert removed(blocked(shipped=[], words=["a", "b"], min_hits=2), text("a"), text("a b"), text("a a")) == {
        1: "blocked_word", 2: "blocked_word",
    }  # fmt: skip


def test_relevance_keeps_what_matches_or_removes_it() -> None:
    records = [text("Invoice 2024-17 is due"), text("the weather"), text("发票已开"), text("invoices")]
    assert removed(relevant(keywords=["invoice", "发票"]), *records) == {1: "irrelevant", 3: "irrelevant"}
    assert removed(relevant(patterns=[r"\b\d{4}-\d{2}\b"], mode="drop"), *records) == {0: "unwanted"}
    assert removed(relevant(patterns=[r"^\p{Han}+$"]), *records) == {0: "irrelevant", 1: "irrelevant", 3: "irrelevant"}


def test_a_pattern_that_is_none_and_one_that_never_ends_are_refused_by_name() -> None:
    with pytest.raises(DataInvalid) as fault:
        relevant(patterns=["fine", "(unclosed"])
    assert (fault.value.error_code, fault.value.param) == ("pattern_invalid", "patterns[1]")
    judge = relevant(patterns=[r"^(?:a|aa|a+)+$"])
    began = time.monotonic()
    with pytest.raises(DataInvalid) as fault:
        judge(batch_of(*[text("a" * 5_000 + "b")] * 50))
    assert fault.value.error_code == "pattern_too_slow"
    assert time.monotonic() - began < 10


def test_a_part_of_a_batch_is_judged_like_a_batch_of_its_own() -> None:
    calls = turn("assistant", "", tool_calls='["a@x.org"]')
    records = [
        pair(f"question {n}, mail a{n}@x.org", "good" * n, "All rights reserved\nbad") if n % 3 else
        {"messages": [turn("user", f"call 13812345{n:03d}"), calls], "tools": "[]"}
        for n in range(12)
    ]  # fmt: skip
    masked = personal_judge(Personal(step="personal"))
    judges = [masked, quality(), missing(), length(max=40), language("en"), blocked()]
    for judge in judges:
        alone, part = judge(batch_of(*records[5:9])), judge(batch_of(*records).slice(5, 4))
        rows = [[{**row, "line": 0} for row in found.batch.to_pylist()] for found in (alone, part)]
        assert rows[0] == rows[1]
        assert (alone.removed, alone.changed) == (part.removed, part.changed)
    for of in ("record", "prompt", "answer"):
        assert texts_of(batch_of(*records[5:9]), of) == texts_of(batch_of(*records).slice(5, 4), of)
