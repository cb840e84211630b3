"""Contamination: what an evaluation set holds is found whole, in pieces and in Chinese, and named."""

from __future__ import annotations

from typing import Any

from canonical_builders import batch_of, chat, pair, removed, text, turn, why

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


SYSTEM = (
    "You sort the messages of our customers. Reply with one of these words and with nothing else: refund, delivery, "
    "complaint, praise, other."
)


def sorted_by(system: str, question: str, answer: str) -> dict[str, Any]:
    return {"messages": [turn("system", system), turn("user", question), turn("assistant", answer)]}


def test_what_the_system_says_neither_hides_a_question_nor_makes_all_records_alike() -> None:
    known = judge(sorted_by(SYSTEM, "Where is my parcel?", "delivery"), sorted_by(SYSTEM, "I want it back.", "refund"))
    records = [
        sorted_by(SYSTEM, "The shoes are too small", "complaint"), sorted_by(SYSTEM, "Where is my parcel?", "other"),
        sorted_by("Be kind.", "Where is my parcel?", "No idea."), chat("where is my PARCEL", "Here."),
    ]  # fmt: skip
    assert removed(known, *records) == dict.fromkeys((1, 2, 3), "contaminated_prompt")


def test_a_question_is_found_in_any_turn_of_a_conversation() -> None:
    asked, small = "What is the capital of France?", [turn("user", "Good morning!"), turn("assistant", "Hello.")]
    both = [turn("user", asked), turn("assistant", "Paris.")]
    records = [{"messages": [*small, *both]}, {"messages": [*both, *small]}, {"messages": small}, pair(asked, "a", "b")]
    assert removed(judge(chat(asked, "Paris")), *records) == dict.fromkeys((0, 1, 3), "contaminated_prompt")


def test_a_question_inside_another_prompt_is_found_however_long_its_answer_was() -> None:
    known = judge(chat(QUESTION, f"It gets as far as this: {OWN} {OWN.replace('bees', 'cows')}"))
    record = chat(f"Solve this. {QUESTION} Think!", "270")
    assert why(known, record).detail == "100% of the pieces of the prompt of school-tests, line 1"
    assert removed(known, chat(OWN, "270")) == {}


def test_a_form_that_many_evaluation_records_share_is_no_sign_of_any_of_them() -> None:
    form = "Say whether the following sentence of a customer is praise or a complaint and nothing else. Sentence:"
    things = ["trains", "boats", "nuts", "shoes", "hats", "coats", "books", "pens", "desks", "chairs", "cups", "forks"]
    said = "they were late, wet and much too small for me"
    known = judge(*(chat(f"{form} The {thing} came on day {n} and {said}") for n, thing in enumerate(things)))
    assert removed(known, chat(f"{form} I like it"), chat(f"{form} The shoes came on day 3 and {said}!!")) == {
        1: "contaminated_prompt"
    }
    few = judge(*(chat(f"{form} {thing} are late") for thing in things))
    assert removed(few, chat(f"{form} lamps are late"), chat(f"{form} hats are late.")) == {1: "contaminated_prompt"}
