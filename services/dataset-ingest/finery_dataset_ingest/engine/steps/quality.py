"""Quality by rule: texts of symbols, texts that repeat themselves, lines that every page carries.

The measures are those of Rae et al., "Scaling Language Models" (2021), appendix A, made for texts without spaces, too.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from finery_contracts.cleansing import Quality
from finery_dataset_ingest.engine.steps.shingles import Shingler
from finery_dataset_ingest.engine.steps.texts import normalised, texts_of, with_texts
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

_PIECE = 8
_LONG_ENOUGH = 64
_SYMBOL = re.compile(r"[^\w\s]|_")
_BOILERPLATE = re.compile(
    r"(?:©|copyright\b|all rights reserved|版权所有|备案号|.{0,10}icp备\s*\d+).{0,120}"
    r"|(?:we|this (?:web)?site) uses? cookies\b.{0,160}|.{0,40}\baccept (?:all )?cookies\b.{0,40}"
    r"|(?:subscribe to|sign up for) (?:our|the) newsletter\b.{0,60}|click here(?: to .{0,40}| for more.{0,40})?[.!]?"
    r"|(?:share|follow us) on (?:facebook|twitter|x|weibo|linkedin|instagram)\b.{0,60}|back to top|read more\W*"
    r"|(?:terms of (?:use|service)|privacy policy)(?:\s*[|·/&,]\s*[\w ]{1,30}){0,4}"
    r"|(?:点击(?:这里|此处|查看|阅读|展开|关注)|查看更多|阅读(?:全文|更多|原文)|返回顶部|展开全文|收起全文).{0,20}"
    r"|(?:扫码|扫描.{0,6}二维码|长按.{0,6}二维码|关注.{0,10}公众号|欢迎关注|免责声明|责任编辑|本文来源|转载请注明).{0,60}"
    r"|(?:上一篇|下一篇)[:：].{0,60}",
    re.IGNORECASE,
)


def quality_judge(step: Quality) -> Judge:
    """Lines first, so that what is left is judged."""
    own = {normalised(line) for line in step.boilerplate_lines}
    shingler = Shingler(_PIECE)

    def cleaned(text: str) -> str:
        if step.boilerplate == "ignore":
            return text
        kept = [line for line in text.split("\n") if not _is_boilerplate(line, own)]
        return text if len(kept) == text.count("\n") + 1 else "\n".join(kept).strip()

    def judge(batch: pa.RecordBatch) -> Judged:
        before = texts_of(batch, calls=False)
        emptied = set[int]()

        def clean(text: str, row: int) -> str:
            left = cleaned(text)
            if text.strip() and not left:
                emptied.add(row)
            return left

        new = with_texts(batch, clean)
        texts = texts_of(new, calls=False)
        removed, changed = dict[int, Why](), dict[int, Why]()
        repeated = _repeated_pieces(texts, shingler)
        for row, (old, text) in enumerate(zip(before, texts, strict=True)):
            why = _fault(text, float(repeated[row]), step)
            if text != old:
                lines = [line.strip() for line in old.split("\n") if _is_boilerplate(line, own)]
                particulars = Why("boilerplate", "; ".join(lines)[:200])
                if step.boilerplate == "drop" or row in emptied:
                    why = why or particulars
                else:
                    changed[row] = particulars
            if why is not None:
                removed[row] = why
        return Judged(new, removed, {row: why for row, why in changed.items() if row not in removed})

    return judge


def _fault(text: str, repeated: float, step: Quality) -> Why | None:
    visible = sum(map(len, text.split()))
    symbols = len(_SYMBOL.findall(text)) / visible if visible else 0.0
    if step.max_symbol_ratio is not None and symbols > step.max_symbol_ratio:
        return Why("symbols", f"{symbols:.0%} of the characters are symbols")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    again = 1 - len(set(lines)) / len(lines) if len(lines) > 2 else 0.0
    if step.max_repeated_line_ratio is not None and again > step.max_repeated_line_ratio:
        return Why("repeated_lines", f"{again:.0%} of the lines were said before")
    if (
        step.max_repeated_ngram_ratio is not None
        and len(text) >= _LONG_ENOUGH
        and repeated > step.max_repeated_ngram_ratio
    ):
        return Why("repetition", f"{repeated:.0%} of the pieces of {_PIECE} characters were said before")
    return None


def _repeated_pieces(texts: list[str], shingler: Shingler) -> np.ndarray:
    found = shingler(texts)
    counts = np.diff(found.offsets.astype(np.int64))
    distinct = np.array([len(found.of(place)) for place in range(len(texts))])
    return np.where(counts > 0, 1 - distinct / np.maximum(counts, 1), 0.0)


def _is_boilerplate(line: str, own: set[str]) -> bool:
    line = line.strip()
    return bool(line) and (_BOILERPLATE.fullmatch(line[:400]) is not None or normalised(line) in own)
