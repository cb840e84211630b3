"""Every format in every container and encoding: found by content, the same records whatever they came in."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from format_samples import FIRST
from ingest_builders import ingest, lines, message, record
from workbooks import number, row, sheet, text, workbook, zipped

from finery_dataset_ingest.engine.encodings import encoding_of

CHINESE = record(message(content="今天天气怎么样？"), message("assistant", "今天是晴天，很好。"))
ROWS = [record(message(content=f"Question {n}?")) | record() for n in range(30)]


def parquet(*rows: dict[str, object]) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), made)
    return made.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    **{name: (f"x-{name}.jsonl", lines(one, one).encode()) for name, one in FIRST.items()},
    "openai": ("x.jsonl", lines(*ROWS).encode()),
    "openai as array": ("x.json", json.dumps(ROWS, indent=1).encode()),
    "csv": ("x.csv", b"conversation_id,human,assistant\n1,a,b\n"),
    "xlsx": ("x.xlsx", workbook(sheet(row(number("1"), text("a"), text("b"))))),
    "text as file": ("x.txt", b"Once upon a time\n\nthere was a file\n"),
    "openai as parquet": ("x.parquet", parquet(*ROWS)),
}
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"
CONTAINERS = {
    "as it is": lambda name, content: (name, content),
    ".gz": lambda name, content: (f"{name}.gz", gzip.compress(content)),
    ".gz of two parts": lambda name, content: (f"{name}.gz", gzip.compress(content[:9]) + gzip.compress(content[9:])),
    ".zst": lambda name, content: (f"{name}.zst", zstandard.compress(content)),
    ".zst behind a frame to be skipped": lambda name, content: (name, SKIPPED + zstandard.compress(content)),
    ".zip": lambda name, content: ("all.zip", zipped({f"data/{name}": content})),
    "no name": lambda name, content: ("upload", content),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", FILES)
def test_each_format_is_found_in_each_container(tmp_path: Path, kind: str, container: str) -> None:
    plain = ingest(tmp_path / "plain", FILES[kind][1], filename=FILES[kind][0])
    name, content = CONTAINERS[container](*FILES[kind])

    done = ingest(tmp_path / "packed", content, filename=name)

    assert plain.result.output is not None
    assert done.result.output is not None, done.result.error
    assert plain.result.output.format == done.result.output.format == kind.split(" ")[0]
    assert [dict(one) | {"file": None} for one in done.rows] == plain.rows
    assert {one["file"] for one in done.rows} == {f"data/{FILES[kind][0]}" if container == ".zip" else None}


def test_the_files_of_a_zip_are_one_data_set_and_each_record_names_its_own(tmp_path: Path) -> None:
    bad = {"messages": []}
    content = zipped(
        {
            "b/two.jsonl": lines(ROWS[0], bad).encode(), "__MACOSX/b/._two.jsonl": b"\0\5\x16\7", "b/.DS_Store": b"\0",
            "a/one.jsonl": lines(ROWS[1]).encode(),
        }
    )  # fmt: skip

    done = ingest(tmp_path, content, filename="all.zip", bad_records="skip", bad_ceiling=0.5)

    assert [(one["file"], one["line"]) for one in done.rows] == [("b/two.jsonl", 1), ("a/one.jsonl", 1)]
    assert [(fault["file"], fault["line"]) for fault in done.faults] == [("all.zip/b/two.jsonl", 2)]


def test_files_of_different_formats_in_one_zip_are_refused(tmp_path: Path) -> None:
    content = zipped({"a.jsonl": lines(ROWS[0]).encode(), "b.csv": FILES["csv"][1]})

    done = ingest(tmp_path, content, filename="all.zip")

    assert done.result.error is not None
    assert done.result.error.code == "format_mismatch"
    assert "b.csv" in done.result.error.message


ENCODINGS = ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16"]
TEXTS: dict[str, tuple[str, str]] = {
    "openai": ("x.jsonl", lines(CHINESE, CHINESE)),
    "an array": ("x.json", json.dumps([CHINESE], ensure_ascii=False, indent=1)),
    "csv": ("x.csv", "conversation_id,human,assistant\n1,今天天气怎么样？,今天是晴天，很好。\n"),
    "text": ("x.txt", "今天天气怎么样？\n\n今天是晴天，很好。\n"),
    "alpaca": ("x.jsonl", lines({"instruction": "今天天气怎么样？", "output": "今天是晴天，很好。"})),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", TEXTS)
def test_chinese_reads_the_same_in_every_encoding(tmp_path: Path, kind: str, encoding: str, packed: bool) -> None:
    name, content = TEXTS[kind]
    plain = ingest(tmp_path / "plain", content, filename=name)
    encoded = content.encode(encoding)

    done = ingest(tmp_path / "job", gzip.compress(encoded) if packed else encoded, filename=name)

    assert done.status == 0, done.faults
    assert done.rows == plain.rows
    assert "今天天气怎么样？" in json.dumps(done.rows, ensure_ascii=False)


def test_chinese_far_behind_plain_ascii_is_recognised(tmp_path: Path) -> None:
    content = lines(*[record()] * 20_000).encode() + lines(CHINESE).encode("gb18030")

    done = ingest(tmp_path, content)

    assert done.rows[-1]["messages"][1]["content"] == "今天是晴天，很好。"


FOREIGN = {
    "German": ("Die Größe der Straße überrascht äußerst müde Gäste; schöne Grüße aus Köln. " * 5, "latin-1"),
    "French": ("L'été dernier, près de la forêt, où la fenêtre était déjà fermée, ça a gelé. " * 5, "cp1252"),
    "Russian": ("Сегодня хорошая погода и мы идём гулять в парк, а потом домой. " * 5, "cp1251"),
    "Korean": ("오늘은 날씨가 좋아서 공원에 산책을 갑니다. 그리고 집에 돌아옵니다. " * 5, "euc-kr"),
    "Japanese": ("今日は天気がいいので公園を散歩します。それから家に帰ります。" * 5, "shift-jis"),
}


@pytest.mark.parametrize(("words", "encoding"), FOREIGN.values(), ids=FOREIGN.keys())
def test_other_encodings_are_not_taken_for_chinese_and_their_lines_and_bytes_are_named(
    tmp_path: Path, words: str, encoding: str
) -> None:
    line = lines(record(message(content=words), message("assistant", words))).encode(encoding)
    with pytest.raises(UnicodeDecodeError) as first:
        line.decode()

    done = ingest(tmp_path, lines(record(), record()).encode() + line)

    assert done.status == 2
    assert (done.faults[0]["code"], done.faults[0]["line"]) == ("invalid_utf8", 3)
    assert f"byte {first.value.start + 1} of the line" in done.faults[0]["reason"]


def test_a_byte_that_breaks_gb18030_later_on_is_named(tmp_path: Path) -> None:
    content = lines(*[CHINESE] * 30_000).encode("gb18030") + b'{"\xff\xff"}\n'

    done = ingest(tmp_path, content, bad_records="skip", bad_ceiling=1.0)

    assert done.status == 2
    assert (done.faults[0]["code"], done.faults[0]["line"]) == ("invalid_encoding", 30_001)
    assert f"byte {len(content) - 4} of the file" in done.faults[0]["reason"]


def test_everyday_chinese_of_any_length_is_certain() -> None:
    words = ["你好", "请问北京今天的天气怎么样？", "人工智能正在改变我们的生活，也改变了工作的方式。", "价格是多少元？"]
    for count, word in itertools.product((1, 3, 40), words):
        raw = (word * count).encode("gb18030")
        assert encoding_of(lambda raw=raw: io.BytesIO(raw)) == "gb18030"


def test_emojis_and_rare_characters_do_not_hide_chinese_and_a_mark_says_gb18030_of_anything(tmp_path: Path) -> None:
    for place, (words, mark) in enumerate([("你好😀", ""), ("𠮷野家好！", ""), ("😀", "\ufeff"), ("龘", "\ufeff")]):
        said = lines(record(message(content=words), message("assistant", "ok")))

        done = ingest(tmp_path / str(place), (mark + said).encode("gb18030"))

        assert [row["messages"][0]["content"] for row in done.rows] == [words]


def test_hidden_files_of_an_archive_are_left_out(tmp_path: Path) -> None:
    entries = {".gitignore": b"*.log", "a/.cache/x.jsonl": b"{", "../x.jsonl": lines(record()).encode(), "..x": b"y"}

    done = ingest(tmp_path, zipped(entries), filename="x.zip")

    assert len(done.rows) == 1


NO_DATA = {
    "a Word document": (zipped({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w/>"}), "office document"),
    "a book": (zipped({"mimetype": b"application/epub+zip", "a.xhtml": b"<html/>"}), "a book"),
    "a web page": (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "web page"),
    "UTF-16 without a mark": (lines(CHINESE).encode("utf-16-le"), "byte order mark"),
}


@pytest.mark.parametrize(("content", "reason"), NO_DATA.values(), ids=NO_DATA.keys())
def test_what_is_no_data_is_not_taken_for_text(tmp_path: Path, content: bytes, reason: str) -> None:
    done = ingest(tmp_path, content, filename="upload")

    assert done.result.error is not None
    assert done.result.error.code == "format_unknown"
    assert reason in done.result.error.message


def test_markup_is_a_text_where_that_is_stated(tmp_path: Path) -> None:
    done = ingest(tmp_path, "<html>x</html>", filename="x.html", format="text")

    assert [row["text"] for row in done.rows] == ["<html>x</html>"]


def test_lines_take_the_fast_way_or_the_careful_one_and_come_out_the_same(tmp_path: Path) -> None:
    chance = random.Random(5)
    unusual = [
        record(message("developer", "S"), message(), message("assistant", "A")), {"messages": []}, "x", 5,
        record(message(), message("assistant", " ")), record(message(content="\u3000"), message("assistant", "A")),
        record(message("system", ""), message(), message("assistant", "A")), record(message()), record(tools=[]),
        record(message(name="Ann"), message("assistant", "A", weight=1)), record(source="crawl"),
    ]  # fmt: skip
    content = ""
    for _ in range(6_000):
        one = chance.choice(unusual) if chance.random() < 0.0005 else chance.choice(ROWS)
        content += json.dumps(one, ensure_ascii=False) + chance.choice(["\n"] * 5_000 + ["\n\n", "\r\n"])
    fast = ingest(tmp_path / "fast", content, bad_records="skip", bad_ceiling=1.0)
    careful = ingest(tmp_path / "careful", "\n" + content.replace("\n", "\n \n"), bad_records="skip", bad_ceiling=1.0)

    assert fast.result.output is not None
    assert careful.result.output is not None
    assert [one["messages"] for one in fast.rows] == [one["messages"] for one in careful.rows]
    assert [2 * fault["line"] for fault in fast.faults] == [fault["line"] for fault in careful.faults]
    assert [fault["reason"] for fault in fast.faults] == [fault["reason"] for fault in careful.faults]
    stats = [json.loads((done.folder / "out" / "stats.json").read_text()) for done in (fast, careful)]
    assert stats[0] | {"languages": None} == stats[1] | {"languages": None}
