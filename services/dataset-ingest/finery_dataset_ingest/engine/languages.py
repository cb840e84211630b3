"""The language of a text by its letters and, for Latin ones, its small words: a guess for a chart, and a cheap one.

Cleansing by language uses a trained model; this one only tells what a data set is about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CHARACTERS = 500
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u3400-\u9fff\U00020000-\U0002ffff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
)
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+")
_SMALL_WORDS = {
    "en": "the of and to in is that it for was on are with as at be this have from what how you a an i my me do does "
    "did not can will would could should we they he she his her your when where which who why please if or but by",
    "de": "der die das und ist nicht ein eine zu den mit von für auf dem sich wie ich auch was",
    "fr": "le la les et est des une un pour dans que qui pas sur avec vous au ce du je",
    "es": "el la los las y es de que en un una por con para no se del al como más",
    "it": "il lo la gli e è di che un una per con non si del della come sono più",
    "pt": "o a os as e é de que em um uma por com para não se do da como mais",
}
_WORDS = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}
_SHARE = 0.2


def language_of(texts: Sequence[str]) -> str:
    """ISO 639-1, or ``other`` for what these rules do not know: code, numbers, further languages."""
    text = "\n".join(text[:_CHARACTERS] for text in texts)[:_CHARACTERS]
    letters = len(_LETTER.findall(text))
    if not letters:
        return "other"
    for name, script in _SCRIPTS:
        if len(script.findall(text)) > _SHARE * letters:
            return name
    words = [word.lower() for word in _LATIN.findall(text)]
    found = {name: sum(word in known for word in words) for name, known in _WORDS.items()}
    best = max(found, key=lambda name: found[name])
    if found[best] and found[best] * 20 >= len(words):
        return best
    return "en" if words and text.isascii() else "other"
