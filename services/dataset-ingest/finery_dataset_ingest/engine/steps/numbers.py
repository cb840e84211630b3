"""Numbers that identify people, and the sums by which they are told from any other digits.

Chinese resident identity numbers by GB 11643-1999 (ISO 7064 MOD 11-2), cards by ISO/IEC 7812-1 (Luhn), bank accounts by
ISO 13616 (IBAN, MOD 97-10).
"""

from __future__ import annotations

import re
from datetime import date

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_PROVINCES = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
    ]
)
_BANK_CARD = re.compile(r"62\d{14,17}|81\d{14,17}|9558\d{12,15}|60(?!11)\d{14,17}|69\d{14,17}")
_CREDIT_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}"
)
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip


def is_chinese_id(number: str) -> bool:
    """Eighteen characters: province, date of birth and check character are right."""
    if not re.fullmatch(r"[1-9]\d{16}[0-9Xx]", number) or number[:2] not in _PROVINCES:
        return False
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return 1800 <= born.year <= 2100 and number[17].upper() == _ID_CHECKS[total % 11]


def card_of(digits: str) -> str | None:
    """``bank_card`` for Chinese ones, ``credit_card`` for international ones, None for anything else."""
    if not luhn(digits):
        return None
    if _BANK_CARD.fullmatch(digits):
        return "bank_card"
    return "credit_card" if _CREDIT_CARD.fullmatch(digits) else None


def luhn(digits: str) -> bool:
    """Doubling every second digit from the right, the sum of all digits is a multiple of ten."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """Without separators: the country's length, and the remainder by 97 is 1."""
    text = text.upper()
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]+", text):
        return False
    if not 2 <= int(text[2:4]) <= 98:  # what the sum can give; 00, 01 and 99 would leave the same remainder
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1
