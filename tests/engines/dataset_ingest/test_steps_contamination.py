"""Contamination: what an evaluation set holds is found whole, in pieces and in Chinese, and named."""

from __future__ import annotations

from typing import Any

from canonical_builders import batch_of, chat, removed, text, why

from finery_contracts.cleansing import Contamination
from finery_dataset_ingest.engine.steps.contamination import build_index, contamination_judge
from finery_dataset_ingest.engine.steps.verdicts import Judge

QUESTION = (
    "A train leaves Vienna at eight and travels for three hours at ninety kilometres an hour. How far does it get?"
)
CHINESE = "小明有五个苹果，他给了小红两个，又从市场买了七个，请问小明现在一共有多少个苹果？"
OWN = (
    "My sister keeps bees behind the old mill, and in summer she sells the honey from a small wooden cart at the gate."
)


def judge(*records: dict[str, Any], name: str = "school-tests", **said: Any) -> Judge:
    step = Contamination.model_validate({"step": "contamination", "against": [name], **said})
    return contamination_judge(step, build_index([(name, [batch_of(*records)])], step))


def test_the_same_record_and_the_same_prompt_are_found_whatever_the_answer() -> None:
    known = judge(chat("unrelated words stand in this one", "yes"), chat(QUESTION, "270"))
    assert removed(known, chat(QUESTION, "270"), chat(QUESTION.upper(), "no idea"), chat(OWN, "270")) == {
        0: "contaminated_exact", 1: "contaminated_prompt",
    }  # fmt: skip
    assert why(known, chat(QUESTION, "270")).detail == "the same as school-tests, line 2"


def test_an_evaluation_text_inside_a_longer_one_is_found_and_its_share_told() -> None:
    known = judge(text(QUESTION))
    less, half = " ".join(QUESTION.split()[:13]), " ".join(QUESTION.split()[:14])
    assert removed(known, text(f"{OWN} {QUESTION} {OWN}"), text(OWN), text(f"{OWN} {less}")) == {
        0: "contaminated_overlap"
    }
    assert why(known, text(f"{OWN} {QUESTION}")).detail == "100% of the pieces of school-tests, line 1"
    # 21 words make 14 pieces of 8; their first 14 words make 7 of them.
    assert len(QUESTION.split()) == 21
    assert why(known, text(f"{OWN} {half}")).detail.startswith("50% of the pieces")


def test_chinese_is_compared_by_characters() -> None:
    known = judge(chat(CHINESE, "十个"))
    assert removed(known, chat(f"老师问：{CHINESE}", "不知道"), chat("小明有五个苹果，都吃了。", "好")) == {
        0: "contaminated_overlap"
    }


def test_small_talk_is_no_evaluation_question() -> None:
    known = judge(chat("Hello", "Hi, how can I help you?"), chat("继续", "好的"))
    records = [chat("hello", "Good morning!"), chat("继续", "没问题"), chat("Hello", "Hi, how can I help you?")]
    assert removed(known, *records) == {2: "contaminated_exact"}


def test_the_record_that_is_most_alike_is_named() -> None:
    first, second = QUESTION, f"{QUESTION} And how far in five hours, if nothing slows it down on the way to the sea?"
    detail = why(judge(text(second), text(first)), text(f"Task: {first} Think!")).detail
    assert detail == "100% of the pieces of school-tests, line 2"
