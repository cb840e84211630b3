"""Files that are made to hurt whoever reads them: archives, workbooks and Parquet, each made in a moment."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from ingest_builders import lines, record
from workbooks import HEADER, NAMESPACE, number, row, sheet, text, workbook, zipped

LINE = lines(record()).encode()
MEGABYTE = 2**20
GOOD_ROW = row(number("1"), text("a"), text("b"))
DOCTYPE = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)


def repeated_gzip(piece: bytes, times: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(packer.compress(piece) for _ in range(times)) + packer.flush()


def repeated_zstd(piece: bytes, times: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(packer.compress(piece) for _ in range(times)) + packer.flush()


def repeated_zip(piece: bytes, times: int, name: str = "a.jsonl", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method, compresslevel=6) as archive, archive.open(name, "w") as entry:
        for _ in range(times):
            entry.write(piece)
    return made.getvalue()


def overlapping(times: int) -> bytes:
    """A directory of many entries that all lie over one and the same body."""
    plain = zipped({"a.jsonl": LINE * 1_000})
    start = plain.index(b"PK\x01\x02")
    entry = plain[start : plain.index(b"PK\x05\x06")]
    return directory(plain[:start], [entry] * times)


def directory(body: bytes, entries: list[bytes], *, stated: int | None = None) -> bytes:
    whole, count = b"".join(entries), len(entries) if stated is None else stated
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(whole), len(body), 0)
    return body + whole + end


def patched(archive: bytes, *changes: tuple[int, str, int]) -> bytes:
    """The first entry of the directory with other words at these places."""
    made, at = bytearray(archive), archive.index(b"PK\x01\x02")
    for offset, form, value in changes:
        struct.pack_into(form, made, at + offset, value)
    return bytes(made)


def strings(count: int, value: str) -> str:
    return f"<si><t>{value}</t></si>" * count


def shared(count: int, rows: int) -> bytes:
    """Rows that all show one long shared text: small as a file, large as records."""
    body = "".join(
        f'<row><c><v>{n}</v></c><c t="s"><v>0</v></c><c t="s"><v>0</v></c></row>' for n in range(1, rows + 1)
    )
    return workbook(sheet(body), strings=strings(1, "x" * count))


def columns(**values: object) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table(values), made)
    return made.getvalue()


def dictionary_bomb() -> bytes:
    """A long text once, and a hundred thousand rows that point to it."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 8 * MEGABYTE]))
    return columns(text=texts)


def lying_parquet() -> bytes:
    return columns(text=["x" * MEGABYTE] * 3)[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"


def nested_parquet() -> bytes:
    kind: pa.DataType = pa.string()
    value: object = "x"
    for _ in range(90):
        kind, value = pa.list_(kind), [value]
    made = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([value], kind)}), made)
    return made.getvalue()


def in_sheet(markup: str) -> bytes:
    return workbook(f"<worksheet {NAMESPACE}><sheetData>{markup}</sheetData></worksheet>")


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip of zeros": lambda: repeated_gzip(bytes(MEGABYTE), 100),
    "gzip of one record": lambda: repeated_gzip(LINE * 9_000, 100),
    "gzip of empty lines": lambda: repeated_gzip(b"\n" * MEGABYTE, 100),
    "gzip of one long line": lambda: repeated_gzip(b'{"messages": "' + b"x" * MEGABYTE, 100),
    "gzip of spaces": lambda: repeated_gzip(b" " * MEGABYTE, 100),
    "gzip of open brackets": lambda: repeated_gzip(b"[" * MEGABYTE, 100),
    "gzip of text": lambda: repeated_gzip(b"word " * 200_000, 100),
    "gzip of a CSV": lambda: repeated_gzip(b"conversation_id,human,assistant\n" + b"1,a,b\n" * 200_000, 100),
    "gzip of a quote in a CSV": lambda: gzip.compress(
        b'conversation_id,human,assistant\n1,"' + (b"a" * 999 + b"\n") * 20_000, 6
    ),
    "gzip of a conversation without end": lambda: gzip.compress(
        b"conversation_id,human,assistant\n" + b"1,a,b\n" * 50_000, 6
    ),
    "gzip in gzip": lambda: gzip.compress(gzip.compress(LINE)),
    "gzip that breaks off": lambda: gzip.compress(LINE * 5_000)[:-20],
    "gzip with a wrong checksum": lambda: gzip.compress(LINE)[:-8] + bytes(8),
    "gzip of a million parts": lambda: gzip.compress(LINE) + gzip.compress(b"") * 200_000,
    "gzip with an endless name": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 20 * MEGABYTE,
    "gzip of garbage": lambda: b"\x1f\x8b\x08\0" + b"garbage" * 99,
    "gzip of a zip": lambda: gzip.compress(zipped({"a.jsonl": LINE})),
    "gzip of a tar": lambda: gzip.compress(bytes(257) + b"ustar\x0000" + bytes(5_000)),
    "zstd of zeros": lambda: repeated_zstd(bytes(MEGABYTE), 100),
    "zstd of one record": lambda: repeated_zstd(LINE * 9_000, 100),
    "zstd of empty lines": lambda: repeated_zstd(b"\n" * MEGABYTE, 100),
    "zstd with a huge window": lambda: b"\x28\xb5\x2f\xfd\x00\xf8" + b"\1\0\0" * 9,
    "zstd that breaks off": lambda: zstandard.compress(LINE * 5_000)[:-9],
    "zstd that lies about its size": lambda: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\1\0\0" * 3,
    "zstd of a million frames": lambda: zstandard.compress(LINE) + zstandard.compress(b"") * 200_000,
    "zstd in zstd": lambda: zstandard.compress(zstandard.compress(LINE)),
    "zip of zeros": lambda: repeated_zip(bytes(MEGABYTE), 100),
    "zip of one record": lambda: repeated_zip(LINE * 9_000, 100),
    "zip of many bombs": lambda: zipped({f"{n}.jsonl": b"\n" * 15 * MEGABYTE for n in range(6)}),
    "zip in zip": lambda: zipped({"a.zip": zipped({"a.jsonl": LINE})}),
    "gzip in zip": lambda: zipped({"a.jsonl": gzip.compress(LINE)}),
    "zstd in zip": lambda: zipped({"a.jsonl": zstandard.compress(LINE)}),
    "7z in zip": lambda: zipped({"a.jsonl": b"7z\xbc\xaf\x27\x1c" + LINE}),
    "zip of overlapping entries": lambda: overlapping(5_000),
    "zip of a hundred thousand entries": lambda: overlapping(100_000),
    "zip that hides its number of entries": lambda: directory(
        b"PK\x03\x04", [b"PK\x01\x02" + bytes(42)] * 300_000, stated=1
    ),
    "zip with a password": lambda: patched(zipped({"a.jsonl": LINE}), (8, "<H", 1)),
    "zip of another method": lambda: repeated_zip(LINE, 9, method=zipfile.ZIP_LZMA),
    "zip that lies about its size": lambda: patched(zipped({"a.jsonl": LINE * 99}), (24, "<L", 10)),
    "zip that claims four gigabytes": lambda: patched(zipped({"a.jsonl": LINE}), (24, "<L", 2**32 - 2)),
    "zip with a wrong checksum": lambda: patched(zipped({"a.jsonl": LINE}), (16, "<L", 1)),
    "zip whose entry lies elsewhere": lambda: patched(zipped({"a.jsonl": LINE}), (42, "<L", 2**31)),
    "zip without files": lambda: zipped({"folder/": b""}),
    "zip that breaks off": lambda: zipped({"a.jsonl": LINE})[:-30],
    "workbook of a million equal cells": lambda: workbook(sheet(GOOD_ROW * 400_000)),
    "workbook of spaces": lambda: workbook(sheet(GOOD_ROW, behind=" " * 30 * MEGABYTE)),
    "workbook with a document type": lambda: workbook(
        DOCTYPE + sheet(row(number("1"), '<c t="str"><v>&i;</v></c>', text("b")))
    ),
    "workbook that reads a file": lambda: workbook(
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        + sheet(row(number("1"), '<c t="str"><v>&e;</v></c>', text("b")))
    ),
    "workbook nested deep": lambda: in_sheet("<row><c>" + "<is>" * 200_000),
    "workbook with a million attributes": lambda: in_sheet(
        "<row " + " ".join(f'a{n}="1"' for n in range(600_000)) + "/>"
    ),
    "workbook with an endless attribute": lambda: in_sheet(f'<row r="{"1" * 9 * MEGABYTE}"/>'),
    "workbook with a far row": lambda: in_sheet('<row r="99999999"><c><v>1</v></c></row>'),
    "workbook with a far column": lambda: in_sheet('<row><c r="ZZZ1"><v>1</v></c></row>'),
    "workbook whose rows go back": lambda: workbook(
        sheet('<row r="5"><c><v>1</v></c></row><row r="4"/>', header=HEADER)
    ),
    "workbook with a text that is not there": lambda: workbook(
        sheet(row(number("1"), '<c t="s"><v>7</v></c>', text("b"))), strings=strings(1, "a")
    ),
    "workbook of a million texts": lambda: workbook(sheet(GOOD_ROW), strings=strings(2_000_000, "")),
    "workbook whose one text is everywhere": lambda: shared(30_000, 3_000),
    "workbook with a huge text": lambda: workbook(sheet(row(number("1"), text("x" * 30 * MEGABYTE), text("b")))),
    "workbook with merges without end": lambda: workbook(
        sheet(GOOD_ROW, behind="<mergeCells>" + '<mergeCell ref="A1:B2"/>' * 200_000 + "</mergeCells>")
    ),
    "workbook without a sheet": lambda: workbook(),
    "workbook whose sheet is not there": lambda: zipped(
        {
            "[Content_Types].xml": b"<a/>",
            "xl/workbook.xml": b'<w><sheets><sheet id="r"/></sheets></w>',
            "xl/_rels/workbook.xml.rels": b'<R><Relationship Id="r" Target="worksheets/../../../../etc/passwd"/></R>',
        }
    ),
    "workbook with a large directory": lambda: workbook(
        sheet(GOOD_ROW), more={"xl/workbook.xml": b"<w>" + b" " * 20 * MEGABYTE + b"</w>"}
    ),
    "parquet of one long text": dictionary_bomb,
    "parquet with a huge directory": lying_parquet,
    "parquet of a text too long": lambda: columns(text=["x" * 17 * MEGABYTE]),
    "parquet of thousands of columns": lambda: columns(**{f"c{n}": [1] for n in range(1_500)}, text=["x"]),
    "parquet nested deep": nested_parquet,
    "parquet that breaks off": lambda: columns(text=["x"] * 99)[:-40],
    "parquet of garbage": lambda: b"PAR1" + b"garbage" * 99 + struct.pack("<I", 200) + b"PAR1",
    "parquet with damaged pages": lambda: bytes(64).join(columns(text=["abc" * 99] * 999).split(b"abc", 1)),
}
