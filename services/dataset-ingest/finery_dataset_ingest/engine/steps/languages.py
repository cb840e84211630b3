"""Language: by script where the script says it, by py3langid where it does not. Text without letters has none.

Short texts carry too little for statistics: Chinese is told by its characters however short, and a short text in plain
Latin letters counts as English unless something speaks clearly for another language.
"""

from __future__ import annotations

import re
from functools import cache

import pyarrow as pa
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from finery_contracts.cleansing import Languages
from finery_dataset_ingest.engine.steps.texts import HAN, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

_KANA, _HANGUL = re.compile("[\u3040-\u30ff]"), re.compile("[\uac00-\ud7af\u1100-\u11ff]")
_NO_LANGUAGE = re.compile(r"https?://\S+|\S+@\S+|```.*?```|`[^`]*`", re.DOTALL)
_LETTERS = re.compile(r"[^\W\d_]")
_SHORT_LETTERS = 40
_CLEARLY, _LIKELY = 0.95, 0.6
_LOOKED_AT = 4_000
"""Characters; more say the same."""
_LATIN_WEIGHT = 2.5
"""A Chinese character says about as much as so many Latin letters."""


def language_judge(step: Languages) -> Judge:
    """Keeps records whose language is asked for."""
    keep = frozenset(step.keep)

    def judge(batch: pa.RecordBatch) -> Judged:
        removed, unknown = dict[int, Why](), 0
        for row, text in enumerate(texts_of(batch, step.of, calls=False)):
            language, confidence = language_of(text)
            if language is None or confidence < step.min_confidence:
                unknown += 1
                if step.unknown == "drop":
                    guess = f"perhaps {language}, confidence {confidence:.2f}" if language else "it has no words"
                    removed[row] = Why("language_unknown", guess)
            elif language not in keep:
                removed[row] = Why("other_language", f"{language}, confidence {confidence:.2f}")
        return Judged(batch, removed, notes={"records whose language could not be told": unknown})

    return judge


def language_of(text: str) -> tuple[str | None, float]:
    """(ISO 639-1 code, confidence from 0 to 1); (None, 0) when the text has no letters."""
    words = _NO_LANGUAGE.sub(" ", text[:_LOOKED_AT])
    letters = len(_LETTERS.findall(words))
    if not letters:
        return None, 0.0
    han, kana, hangul = (len(script.findall(words)) for script in (HAN, _KANA, _HANGUL))
    rest = (letters - han - kana - hangul) / _LATIN_WEIGHT
    total = han + kana + hangul + rest
    if kana and kana + han > total / 2 and kana >= 0.1 * (kana + han):
        return "ja", (kana + han) / total
    if hangul > total / 2:
        return "ko", hangul / total
    if han >= total / 2:
        return "zh", han / total
    return _by_statistics(HAN.sub(" ", words), int(rest * _LATIN_WEIGHT))


def _by_statistics(words: str, letters: int) -> tuple[str, float]:
    language, confidence = _identifier().classify(words)
    if letters < _SHORT_LETTERS and words.isascii() and (language == "en" or confidence < _CLEARLY):
        return "en", max(_LIKELY, float(confidence) if language == "en" else 0.0)
    return language, float(confidence)


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
