"""In which letters a file is written: UTF-8, UTF-16 with a byte order mark, or GB18030 where that is certain.

Certain means: not UTF-8, every byte of the sample fits GB18030, and what comes out are everyday characters. A file that
is neither is read as UTF-8, so that each line with a wrong byte is named.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterator
from typing import BinaryIO

from finery_dataset_ingest.engine.lines import BOM
from finery_dataset_ingest.engine.samples import Fault, FileUnreadable, Place
from finery_dataset_ingest.engine.streams import CHUNK_BYTES, as_file, pieces_of

UTF8, UTF16, GB18030 = "utf-8", "utf-16", "gb18030"
_GB18030_BOM = "\ufeff".encode(GB18030)
_SAMPLE_BYTES = 2**20
_ASCII_BYTES = 32 * 2**20
"""So far a file is searched for its first byte that is not ASCII."""
_EVERYDAY = 0.85
"""Share of the characters beyond ASCII that are everyday Chinese; of accented Latin read as GB18030, hardly a tenth."""
_FREQUENT = 0.05
"""Share of the most frequent ones in a text of some length; Korean or Cyrillic read as GB18030 has next to none."""
_ENOUGH = 60
_MOST_FREQUENT = frozenset(
    "的一是了我不在人们有来他这上着个地到大里说就去子得也和那要下看天时过出小么起你都把好还多没为又可家学"
)


def encoding_of(open_file: Callable[[], BinaryIO]) -> str:
    """The encoding of a file, by its first bytes that tell."""
    with open_file() as file:
        head = file.read(4)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and head != codecs.BOM_UTF32_LE:
            return UTF16
        if head.startswith(BOM):
            return UTF8
        if head == _GB18030_BOM:
            return GB18030
        sample = head + file.read(_SAMPLE_BYTES)
        read = len(sample)
        while sample.isascii() and read < _ASCII_BYTES:
            rest = sample[sample.rfind(b"\n") + 1 :][-CHUNK_BYTES:]
            piece = file.read(_SAMPLE_BYTES)
            if not piece:
                return UTF8
            sample, read = rest + piece, read + len(piece)
    if _fits(sample, UTF8) is not None:
        return UTF8
    text = _fits(sample, GB18030)
    return GB18030 if text is not None and _is_chinese(text) else UTF8


def as_utf8(open_file: Callable[[], BinaryIO], encoding: str) -> Callable[[], BinaryIO]:
    """The same file in UTF-8, as it is when it is so already."""
    if encoding == UTF8:
        return open_file

    def opened() -> BinaryIO:
        file = open_file()
        return as_file(_encoded(file, encoding), file.close)

    return opened


def _encoded(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Raises FileUnreadable where a byte does not fit: what comes after it could be read wrongly."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, before, ended = 1, 0, False
    pieces = pieces_of(file)
    while not ended:
        piece = next(pieces, b"")
        ended = not piece
        try:
            text = decoder.decode(piece, final=ended)
        except UnicodeDecodeError as fault:
            at = before + len(piece) - len(fault.object) + fault.start
            shown = f"0x{fault.object[fault.start]:02x}"
            newlines = fault.object[: fault.start].decode(encoding, errors="ignore").count("\n")
            reason = f"byte {at + 1} of the file ({shown}) is not {encoding.upper()}, as the bytes before it are"
            remedy = "save the file as UTF-8"
            raise FileUnreadable(
                Fault(Place(line=line + newlines), code="invalid_encoding", reason=reason, remedy=remedy)
            ) from fault
        line += text.count("\n")
        before += len(piece)
        if text:
            yield text.encode(UTF8)


def _fits(sample: bytes, encoding: str) -> str | None:
    """The sample as text; its last character may be cut off."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _is_chinese(text: str) -> bool:
    """Everyday characters: the first level of GB 2312 and its punctuation."""
    foreign = [character for character in text if character > "\x7f"]
    beyond = [character for character in foreign if not _is_rare(character)]
    if len(beyond) <= len(foreign) // 2:
        return False
    everyday = sum(map(_is_everyday, beyond))
    if everyday < _EVERYDAY * len(beyond):
        return False
    return len(beyond) < _ENOUGH or sum(c in _MOST_FREQUENT for c in beyond) >= _FREQUENT * len(beyond)


def _is_rare(character: str) -> bool:
    """An emoji or a rare ideograph, of four bytes: it says nothing for or against everyday Chinese."""
    return len(character.encode(GB18030)) == 4 and unicodedata.category(character) in ("So", "Lo")


def _is_everyday(character: str) -> bool:
    try:
        lead, *trail = character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return bool(trail) and (0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3)
