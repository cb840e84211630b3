"""Personal data: found by form and by check sum, then masked, or its record removed.

What was found is never repeated: not in reasons, not in examples. Names of people are not found; that takes a model.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
from phonenumbers import Leniency, NumberParseException, PhoneNumberMatcher, is_valid_number
from phonenumbers import parse as parse_phone

from finery_contracts.cleansing import Personal
from finery_dataset_ingest.engine.steps.numbers import IBAN_LENGTHS, card_of, is_chinese_id, is_iban
from finery_dataset_ingest.engine.steps.texts import with_texts
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

PLACEHOLDERS = {
    "email": "EMAIL", "phone": "PHONE", "chinese_id": "ID_CARD", "credit_card": "CREDIT_CARD",
    "bank_card": "BANK_CARD", "iban": "IBAN", "ip_address": "IP_ADDRESS",
}  # fmt: skip
_WIDE = {0xFF10 + n: str(n) for n in range(10)} | {
    ord("＠"): "@",
    ord("＋"): "+",
    ord("－"): "-",
    ord("．"): ".",
    ord("Ｘ"): "X",
}
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_ID = re.compile(r"(?<![0-9A-Za-z])[1-9](?:[ -]?\d){16}[ -]?[0-9Xx](?![0-9A-Za-z])")
_CARD = re.compile(r"(?<![0-9A-Za-z])(?<!\d[.,])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z])")
_SAID_ID = re.compile(
    r"(?:身份证|身份證|身分證|证件号|\bID (?:card|number|no))[^0-9\n]{0,12}"
    r"([1-9]\d{14}(?:\d\d[0-9Xx])?)(?![0-9A-Za-z])",
    re.IGNORECASE,
)
"""What is called an identity number is one, be its check sum wrong (mistyped) or missing (those of before 1999)."""
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}\d{2}(?=[ -]?[A-Za-z0-9])")
_IPV4 = re.compile(
    r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?!\d)(?!\.\d)"
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:]*\d)[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![\w:])"
)
_CHINESE_MOBILE = re.compile(r"(?<![0-9A-Za-z])(?:(?:\+|00)?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![0-9])")
_ABROAD = re.compile(r"(?<![\d+])00[1-9][\d ().-]{6,20}\d(?!\d)")
_PHONE_LIKE = re.compile(r"[+(]?\d[\d ().\-\u2010-\u2013/]{5,40}\d(?:[ ]?(?:ext|x|转)[ .]?\d{1,6})?")
_SAID_PHONE = re.compile(
    r"(?:电话|電話|座机|座機|手机|手機|热线|熱線|传真|傳真|联系方式|\b(?:tel|telephone|phone|mobile|cell|fax)\b)"
    r"[^0-9\n+]{0,12}(\d{7,12})(?![0-9A-Za-z]|[.,]\d)",
    re.IGNORECASE,
)
"""What is called a telephone number is one though nothing parts it, if some region has such numbers."""
_HALVES = re.compile("[\ud800-\udfff]")
_PARTED = re.compile(r"[ ().\-\u2010-\u2013/+]")


class Span(NamedTuple):
    """Something personal in a text."""

    start: int
    end: int
    kind: str


def personal_judge(step: Personal) -> Judge:
    """Masks, or removes the records in which something would be masked."""

    def judge(batch: pa.RecordBatch) -> Judged:
        masks = [_Mask(step) for _ in range(batch.num_rows)]
        masked = with_texts(
            batch, lambda text, row: masks[row].text(text), json_change=lambda text, row: masks[row].json(text)
        )
        found = {
            row: Why(next(iter(sorted(mask.found))), ", ".join(f"{n} {kind}" for kind, n in sorted(mask.found.items())))
            for row, mask in enumerate(masks)
            if mask.found
        }
        counts = Counter[str]()
        for mask in masks:
            counts.update(mask.found)
        notes = {f"{kind} found": count for kind, count in counts.items()}
        return Judged(masked, found, notes=notes) if step.action == "drop" else Judged(masked, {}, found, notes)

    return judge


def spans_of(text: str, step: Personal) -> list[Span]:
    """What is personal in a text, from left to right; where two claims overlap the surer one holds."""
    plain = text.translate(_WIDE) if not text.isascii() else text
    taken = list[Span]()
    wanted = set(step.kinds)
    has_digit = any(map(str.isdigit, plain))
    for span in (*_mails(plain), *(_numbers(plain, step) if has_digit else ())):
        if span.kind in wanted and all(span.end <= other.start or span.start >= other.end for other in taken):
            taken.append(span)
    return sorted(taken)


def _mails(text: str) -> Iterator[Span]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Span(match.start(), match.end(), "email")


def _numbers(text: str, step: Personal) -> Iterator[Span]:
    """Those with a check sum first: they are surer than a phone number that looks alike."""
    yield from _called(text)
    for match in _ID.finditer(text):
        if is_chinese_id(re.sub("[ -]", "", match[0])):
            yield Span(match.start(), match.end(), "chinese_id")
    yield from _accounts(text)
    for match in _CARD.finditer(text):
        kind = card_of(re.sub("[ -]", "", match[0]))
        if kind is not None:
            yield Span(match.start(), match.end(), kind)
    for match in _IPV4.finditer(text):
        yield Span(match.start(), match.end(), "ip_address")
    for match in _IPV6.finditer(text):
        if _is_address(match[0]):
            yield Span(match.start(), match.end(), "ip_address")
    if "phone" in step.kinds:
        yield from _phones(text, step)


def _called(text: str) -> Iterator[Span]:
    for match in _SAID_ID.finditer(text):
        yield Span(match.start(1), match.end(1), "chinese_id")


def _accounts(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        whole = re.compile(rf"[A-Za-z0-9](?:[ -]?[A-Za-z0-9]){{{length - 1}}}(?![A-Za-z0-9])").match(
            text, match.start()
        )
        if whole and is_iban(re.sub("[ -]", "", whole[0])):
            yield Span(whole.start(), whole.end(), "iban")


def _phones(text: str, step: Personal) -> Iterator[Span]:
    for match in _CHINESE_MOBILE.finditer(text):
        yield Span(match.start(), match.end(), "phone")
    for match in _SAID_PHONE.finditer(text):
        if any(_is_phone(match[1], region) for region in step.regions):
            yield Span(match.start(1), match.end(1), "phone")
    for match in _ABROAD.finditer(text):
        if _is_phone(f"+{match[0][2:]}"):
            yield Span(match.start(), match.end(), "phone")
    for match in _PHONE_LIKE.finditer(text):
        like = match[0]
        if "+" in like or "＋" in like:
            yield from _matched(like, match.start(), None, Leniency.VALID)
        if _PARTED.search(like.strip()):
            for region in step.regions:
                yield from _matched(like, match.start(), region, Leniency.STRICT_GROUPING)


def _matched(text: str, offset: int, region: str | None, leniency: int) -> Iterator[Span]:
    for found in PhoneNumberMatcher(text, region, leniency=leniency, max_tries=20):
        if region is None or _PARTED.search(found.raw_string):
            yield Span(offset + found.start, offset + found.end, "phone")


def _is_phone(text: str, region: str | None = None) -> bool:
    try:
        return is_valid_number(parse_phone(text, region))
    except NumberParseException:
        return False


def _is_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


@dataclass
class _Mask:
    """Masks the texts of one record; with ``numbered`` the same value has the same number in all of them."""

    step: Personal
    found: Counter[str] = field(default_factory=Counter[str])
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def text(self, text: str) -> str:
        """The text with placeholders."""
        parts, end = list[str](), 0
        for span in spans_of(text, self.step):
            parts += [text[end : span.start], self._name(span.kind, text[span.start : span.end])]
            end = span.end
            self.found[span.kind] += 1
        return "".join([*parts, text[end:]]) if parts else text

    def json(self, text: str) -> str:
        """JSON with its texts masked; a number that is personal becomes a text, so that it stays JSON."""
        try:
            said = json.loads(text)
        except ValueError:
            return self.text(text)
        masked = self._inside(said)
        if masked == said:
            return text
        written = json.dumps(masked, ensure_ascii=False)
        return json.dumps(masked) if _HALVES.search(written) else written

    def _inside(self, said: object) -> object:
        if isinstance(said, dict):
            return {name: self._inside(part) for name, part in said.items()}
        if isinstance(said, list):
            return [self._inside(part) for part in said]
        if isinstance(said, str):
            return self.json(said) if said.lstrip().startswith(("{", "[")) else self.text(said)
        if isinstance(said, int) and not isinstance(said, bool):
            shown = str(said)
            masked = self.text(shown)
            return said if masked == shown else masked
        return said

    def _name(self, kind: str, value: str) -> str:
        if not self.step.numbered:
            return f"[{PLACEHOLDERS[kind]}]"
        known = (kind, re.sub(r"[\s().-]", "", value).casefold())
        others = sum(1 for seen, _ in self._numbers if seen == kind)
        return f"[{PLACEHOLDERS[kind]}_{self._numbers.setdefault(known, others + 1)}]"
