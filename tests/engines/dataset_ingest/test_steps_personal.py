"""Personal data: found in every form that is named, checked by sums computed here anew, and never told again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from canonical_builders import batch_of, chat, pair, removed, text, turn

from finery_contracts.cleansing import Personal
from finery_dataset_ingest.engine.steps.numbers import card_of, is_chinese_id, is_iban, luhn
from finery_dataset_ingest.engine.steps.personal import personal_judge

# Published examples: ISO 7064 and GB 11643 texts, card networks' test numbers, the IBAN registry.
RESIDENT_IDS = ["11010519491231002X", "440524188001010014"]
CREDIT_CARDS = ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "3530111333300000"]
IBANS = [
    "GB82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 00", "FR14 2004 1010 0505 0001 3M02 606",
    "NO93 8601 1117 947", "CH93 0076 2011 6238 5295 7", "SA0380000000608010167519",
]  # fmt: skip


def masked(said: str, **step: Any) -> str:
    judge = personal_judge(Personal.model_validate({"step": "personal", **step}))
    return judge(batch_of(text(said))).batch.column("text")[0].as_py()


def luhn_digit(front: str) -> str:
    """The digit that makes a card number right, by adding up from the right."""
    total = 0
    for place, digit in enumerate(front[::-1]):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str((10 - total % 10) % 10)


def id_digit(front: str) -> str:
    """MOD 11-2 by its recurrence, not by a table of weights."""
    rest = 0
    for digit in front:
        rest = (rest + int(digit)) * 2 % 11
    return "0123456789X"[(12 - rest) % 11]


def iban_digits(country: str, account: str) -> str:
    spelled = "".join(str(ord(c) - 55) if c.isalpha() else c for c in f"{account}{country}00")
    return f"{98 - int(spelled) % 97:02d}"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Write to ann.b+shop@mail.example.co.uk, please.", "Write to [EMAIL], please."),
        ("邮箱是zhang_san@qq.com请查收", "邮箱是[EMAIL]请查收"),
        ("a@b is no address, nor is @home or 3@4.5", "a@b is no address, nor is @home or 3@4.5"),
        ("手机13812345678，谢谢", "手机[PHONE]，谢谢"),
        ("手机号：１３８１２３４５６７８。", "手机号：[PHONE]。"),
        ("+86 138 1234 5678 or 138-1234-5678", "[PHONE] or [PHONE]"),
        ("座机010-62512345转8", "座机[PHONE]转8"),
        ("Call +49 30 901820 or +1 415-555-2671 or +33 1 42 68 53 00", "Call [PHONE] or [PHONE] or [PHONE]"),
        ("from abroad 0049 30 901820", "from abroad [PHONE]"),
        ("(415) 555-2671", "[PHONE]"),
        ("座机：01065529988，电话是02088888888", "座机：[PHONE]，电话是[PHONE]"),
        ("my phone is 4155552671, Tel.: 02079460958", "my phone is [PHONE], Tel.: [PHONE]"),
        ("phone model 20210115, 手机型号2000000, tel 12345678", "phone model 20210115, 手机型号2000000, tel 12345678"),
        ("order 4155552671 of 2024-11-05 10:30: 1,234,567.89", "order 4155552671 of 2024-11-05 10:30: 1,234,567.89"),
        ("身份证11010519491231002X。", "身份证[ID_CARD]。"),
        ("110105 19491231 002x", "[ID_CARD]"),
        ("440524 1880 0101 0014", "[ID_CARD]"),
        ("https://x.org/13800138000, +8613812345678, 0086-13812345678", "https://x.org/[PHONE], [PHONE], [PHONE]"),
        ("+852 2345 6789, 400-820-8820", "[PHONE], [PHONE]"),
        ("fe80::1ff:fe23:4567:890a, 2001:0db8:85a3:0000:0000:8a2e:0370:7334", "[IP_ADDRESS], [IP_ADDRESS]"),
        ("pi is 3.14159265358979, isbn 978-3-16-148410-0", "pi is 3.14159265358979, isbn 978-3-16-148410-0"),
        ("no person: 110105194912310021", "no person: 110105194912310021"),
        ("card 4111 1111 1111 1111 exp 12/27", "card [CREDIT_CARD] exp 12/27"),
        ("card 4111 1111 1111 1112", "card 4111 1111 1111 1112"),
        ("from 192.168.10.254:8080 to 2001:db8::1", "from [IP_ADDRESS]:8080 to [IP_ADDRESS]"),
        ("at 12:30:45, version 300.1.2.3, a::b, 1.2.3.4.5", "at 12:30:45, version 300.1.2.3, a::b, 1.2.3.4.5"),
        ("pay to DE89 3704 0044 0532 0130 00 BIC COBADEFF", "pay to [IBAN] BIC COBADEFF"),
        ("pay to DE89370400440532013001", "pay to DE89370400440532013001"),
    ],
)  # fmt: skip
def test_what_is_personal_is_masked_and_nothing_else(said: str, wanted: str) -> None:
    assert masked(said) == wanted


def test_chinese_bank_cards_are_told_from_international_ones() -> None:
    dice = random.Random(1)
    for prefix, length in (("622848", 19), ("621700", 19), ("622202", 19), ("623058", 16)):
        front = prefix + "".join(dice.choices("0123456789", k=length - len(prefix) - 1))
        good = front + luhn_digit(front)
        bad = front + str((int(good[-1]) + 1) % 10)
        assert masked(f"卡号{good}，") == "卡号[BANK_CARD]，"
        assert masked(f"卡号{bad}，") == f"卡号{bad}，"
        assert masked(f"卡号{' '.join(good[i : i + 4] for i in range(0, length, 4))}。") == "卡号[BANK_CARD]。"


def test_check_sums_agree_with_ones_computed_another_way() -> None:
    dice = random.Random(2)
    assert all(map(is_chinese_id, RESIDENT_IDS))
    assert all(map(luhn, CREDIT_CARDS))
    assert [card_of(number) for number in CREDIT_CARDS] == ["credit_card"] * len(CREDIT_CARDS)
    assert all(is_iban(number.replace(" ", "")) for number in IBANS)
    for _ in range(300):
        birth = f"{dice.randint(1930, 2020)}{dice.randint(1, 12):02d}{dice.randint(1, 28):02d}"
        front = f"{dice.choice(['110105', '440301', '510104'])}{birth}{dice.randint(0, 999):03d}"
        right = id_digit(front)
        assert [digit for digit in "0123456789X" if is_chinese_id(front + digit)] == [right]
        digits = "".join(dice.choices("0123456789", k=15))
        assert [digit for digit in "0123456789" if luhn(digits + digit)] == [luhn_digit(digits)]
        account = "".join(dice.choices("0123456789", k=18))
        right = iban_digits("DE", account)
        assert is_iban(f"DE{right}{account}")
        assert not is_iban(f"DE{(int(right) + 1) % 98:02d}{account}")
        assert not is_iban(f"DE{right}{account}0")


@pytest.mark.parametrize(
    "number", ["11010519491331002X", "110105194902300025", "990105194912310027", "1101051949123100X"]
)
def test_an_identity_number_with_an_impossible_date_or_province_is_none(number: str) -> None:
    assert not is_chinese_id(number)


def test_the_same_value_has_the_same_number_within_a_record() -> None:
    record = chat("I am a@x.org, he is b@x.org", "Dear A@x.org, call 13812345678 or 138 1234 5678")
    judge = personal_judge(Personal(step="personal", numbered=True))
    found = judge(batch_of(record, chat("b@x.org")))
    assert [[m["content"] for m in row] for row in found.batch.column("messages").to_pylist()] == [
        ["I am [EMAIL_1], he is [EMAIL_2]", "Dear [EMAIL_1], call [PHONE_1] or [PHONE_1]"], ["[EMAIL_1]", "Fine."],
    ]  # fmt: skip
    assert found.changed[0].detail == "3 email, 2 phone"


def test_tool_calls_stay_json_whatever_is_masked_in_them() -> None:
    arguments = json.dumps({"to": "a@x.org", "phone": 13812345678, "count": 3, "note": "你好"}, ensure_ascii=False)
    calls = json.dumps([{"id": "c1", "type": "function", "function": {"name": "send", "arguments": arguments}}])
    record = {"messages": [turn("user", "x"), turn("assistant", "", tool_calls=calls)]}
    found = personal_judge(Personal(step="personal"))(batch_of(record))
    said = json.loads(found.batch.column("messages")[0].as_py()[1]["tool_calls"])
    inside = json.loads(said[0]["function"]["arguments"])
    assert inside == {"to": "[EMAIL]", "phone": "[PHONE]", "count": 3, "note": "你好"}
    untouched = {"messages": [turn("user", "x"), turn("assistant", "", tool_calls='[{"id":  "c1"}]')]}
    kept = personal_judge(Personal(step="personal"))(batch_of(untouched)).batch
    assert kept.column("messages")[0].as_py()[1]["tool_calls"] == '[{"id":  "c1"}]'


def test_both_sides_of_a_preference_are_masked_and_what_is_missing_stays_missing() -> None:
    found = personal_judge(Personal(step="personal"))(batch_of(pair("q", "to a@x.org", "to b@x.org"), chat("hi")))
    assert found.batch.column("chosen").to_pylist()[0][0]["content"] == "to [EMAIL]"
    assert found.batch.column("rejected").to_pylist()[0][0]["content"] == "to [EMAIL]"
    assert found.batch.column("chosen").to_pylist()[1] is None
    assert list(found.changed) == [0]


def test_records_can_go_instead_and_what_was_found_is_told_nowhere() -> None:
    judge = personal_judge(Personal(step="personal", action="drop", kinds=["email"]))
    records = chat("mail a@x.org"), chat("call 13812345678"), chat("nothing")
    assert removed(judge, *records) == {0: "email"}
    found = judge(batch_of(*records))
    assert "a@x.org" not in str(found.removed) + str(found.batch.to_pylist())


def test_a_text_of_nothing_but_digits_is_looked_through_to_its_end() -> None:
    said = "1 2-3 4 5(6)7 8.9 0 " * 500 + "13812345678"
    assert masked(said).endswith("[PHONE]")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("我的身份证号码是110105194912310021，请保密", "我的身份证号码是[ID_CARD]，请保密"),
        ("身份证：110105491231002", "身份证：[ID_CARD]"),
        ("ID card no. 110105194912310021", "ID card no. [ID_CARD]"),
    ],
)
def test_what_is_called_an_identity_number_is_masked_whatever_its_check_sum(said: str, wanted: str) -> None:
    assert masked(said) == wanted


@pytest.mark.parametrize(
    "said", ["订单号 110105194912310021", "流水 6222021234567890123", "身份证有效期 20 年，2049 年到期"]
)
def test_digits_that_are_called_something_else_and_fail_their_sum_stay(said: str) -> None:
    assert masked(said) == said
