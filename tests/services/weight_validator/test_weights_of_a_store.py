"""Model folders out of an object store: what comes, what is refused before it comes, and what no key reaches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_rig import Imported, imported

from finery_contracts.jobs import ImportOutput
from finery_ml.sources import landing, s3
from tests.model_lake import KEYS, WEIGHTS, Lake, a_lake, model_files
from tests.plain_store import plain_store

FILES = model_files()


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with a_lake() as made:
        yield made


def asked_for(lake: Lake, prefix: str) -> list[str]:
    """Keys below a prefix, as the store itself lists them."""
    found = lake.client.list_objects_v2(Bucket="lake", Prefix=prefix)
    return [entry["Key"] for entry in found.get("Contents", [])]


def nothing_else_was_written(tmp_path: Path, came: Imported) -> bool:
    """All that lies under the test's folder lies in the job folder."""
    return {path.name for path in tmp_path.iterdir()} == {came.folder.name}


# --- what comes ---------------------------------------------------------------------------------------------------


def test_a_folder_of_a_store_becomes_the_same_model_as_a_folder_here(lake: Lake, tmp_path: Path) -> None:
    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    assert came.status == 0, came.result.error
    output = came.result.output
    assert isinstance(output, ImportOutput)
    assert (output.architecture, output.dtype, output.max_length) == ("llama", "bfloat16", 256)
    assert {path.name for path in came.model.iterdir()} == set(FILES)
    assert (came.model / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    listed = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
    assert output.fetched is not None
    assert output.fetched.sha256 == hashlib.sha256(listed.encode()).hexdigest()
    assert (output.fetched.files, output.fetched.size_bytes) == (len(FILES), sum(map(len, FILES.values())))


def test_fetching_is_told_in_bytes_and_is_preparation(lake: Lake, tmp_path: Path) -> None:
    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    whole = sum(map(len, FILES.values()))
    told = [line for line in came.progress if line.get("metrics", {}).get("fetched_bytes")]
    assert (told[-1]["phase"], told[-1]["step"], told[-1]["total"]) == ("preparing", whole, whole)
    assert told[-1]["metrics"] == {"fetched_bytes": whole, "fetched_files": len(FILES)}
    phases = [line["phase"] for line in came.progress]
    assert phases == sorted(phases), "running comes after preparing and is never left"
    assert "running" in phases


def test_weights_that_were_fetched_lie_on_the_disk_once_and_under_one_name(lake: Lake, tmp_path: Path) -> None:
    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    assert (came.model / WEIGHTS).stat().st_nlink == 1
    assert list(came.folder.rglob("*.safetensors")) == [came.model / WEIGHTS]
    assert (came.model / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_what_an_earlier_try_left_is_thrown_away(lake: Lake, tmp_path: Path) -> None:
    for name in ("model", "fetched"):
        (tmp_path / "job" / name).mkdir(parents=True)
        (tmp_path / "job" / name / "modeling.py").write_text("import os")

    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    assert came.status == 0, came.result.error


def test_hidden_objects_and_those_that_stand_for_folders_are_left_out(lake: Lake, tmp_path: Path) -> None:
    place = lake.put("models/hidden", FILES | {".git/hooks/run.sh": b"#!/bin/sh", ".cache/x.pkl": b"\x80", "a/.b": b""})
    lake.client.put_object(Bucket="lake", Key="models/hidden/", Body=b"")

    came = imported(tmp_path / "job", lake.origin(place))

    assert came.status == 0, came.result.error
    assert {path.name for path in came.model.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", ["模型 v1.txt", "a+b&c=d?.txt", "notes 100%.txt"])
def test_names_of_any_language_and_sign_arrive_as_they_are(lake: Lake, tmp_path: Path, name: str) -> None:
    place = lake.put(f"models/{hashlib.sha256(name.encode()).hexdigest()[:8]}", FILES | {name: b"x"})

    came = imported(tmp_path / "job", lake.origin(place))

    assert came.status == 0, came.result.error
    assert (came.model / name).read_bytes() == b"x"


def test_a_store_that_lists_names_unencoded_is_believed_as_well(tmp_path: Path) -> None:
    files = FILES | {"100%41+1.txt": b"x"}
    with plain_store([(f"p/{name}", content) for name, content in files.items()]) as store:
        came = imported(tmp_path / "job", store.origin("s3://lake/p/"))
    assert came.status == 0, came.result.error
    assert {path.name for path in came.model.iterdir()} == set(files)


# --- what is refused before it comes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "above", "word"),
    [("one/llama.gguf", "s3://lake/one", "nothing else"), (f"one/{WEIGHTS}", "s3://lake/one", "config.json"),
     ("alone.gguf", "s3://lake", "nothing else"), ("one/notes.md", "s3://lake/one", "config.json")],
)  # fmt: skip
@pytest.mark.parametrize("end", ["", "/"])
def test_a_single_object_is_no_folder_and_the_prefix_to_give_is_named(
    lake: Lake, tmp_path: Path, key: str, above: str, word: str, end: str
) -> None:
    lake.client.put_object(Bucket="lake", Key=key, Body=b"GGUF")

    came = imported(tmp_path / "job", lake.origin(f"s3://lake/{key}{end}"))

    assert (came.status, came.code) == (2, "not_a_folder")
    assert came.message.rstrip(".").endswith(above)
    assert word in came.message
    assert not came.model.exists()


def test_a_prefix_with_nothing_below_is_named(lake: Lake, tmp_path: Path) -> None:
    lake.put("models/tiny", FILES)

    came = imported(tmp_path / "job", lake.origin("s3://lake/models/tin"))

    assert (came.status, came.code) == (2, "source_not_found")
    assert "s3://lake/models/tin:" in came.message


REFUSED_BY_NAME = {
    "a pickle": ({"pytorch_model.bin": b"\x80"}, "pickled_weights"),
    "a pickle below": ({"a/b/x.pkl": b""}, "pickled_weights"),
    "code": ({"modeling.py": b""}, "remote_code"),
    "an archive": ({"all.tar.gz": b""}, "archive_refused"),
}


@pytest.mark.parametrize(("more", "code"), REFUSED_BY_NAME.values(), ids=REFUSED_BY_NAME.keys())
def test_what_names_condemn_is_refused_before_a_byte_comes(
    lake: Lake, tmp_path: Path, more: dict[str, bytes], code: str
) -> None:
    came = imported(tmp_path / "job", lake.origin(lake.put(f"bad/{code}-{len(next(iter(more)))}", FILES | more)))

    assert (came.status, came.faults) == (2, {(code, next(iter(more)))})
    assert list(came.folder.glob("fetched/*")) == []


@pytest.mark.parametrize(
    ("files", "code"),
    [({"readme.md": b"x"}, "config_unreadable"), ({"config.json": b"{}"}, "weights_missing"),
     ({"a/config.json": b"{}", f"a/{WEIGHTS}": b""}, "config_unreadable"),
     ({"m-q4.gguf": b"GGUF", "m-q8.gguf": b"GGUF"}, "gguf_ambiguous")],
)  # fmt: skip
def test_a_prefix_that_is_no_model_folder_is_not_fetched(
    lake: Lake, tmp_path: Path, files: dict[str, bytes], code: str
) -> None:
    place = lake.put(f"none/{code}-{len(files)}-{len(next(iter(files)))}", files)

    came = imported(tmp_path / "job", lake.origin(place))

    assert (came.status, came.code) == (2, code)
    assert list(came.folder.glob("fetched/*")) == []


# --- hostile names --------------------------------------------------------------------------------------------------


def hostile_store(tmp_path: Path, names: list[str]) -> Imported:
    """An import from a store that lists these names; nothing of it may be fetched."""
    with plain_store([(f"p/{name}", b"evil") for name in names]) as store:
        came = imported(tmp_path / "job", store.origin("s3://lake/p"))
    assert store.fetched == [], "names are judged before anything is fetched"
    return came


HOSTILE = {
    "climbs": ("../../outside.json", "path_escape"),
    "climbs in the middle": ("a/../../outside.json", "path_escape"),
    "climbs out of what is hidden": (".git/../../outside.json", "path_escape"),
    "is its own folder": ("./config.json", "path_escape"),
    "is absolute": ("/etc/cron.d/evil.json", "path_escape"),
    "climbs elsewhere": ("..\\outside.json", "path_escape"),
    "has an empty part": ("a//b.json", "name_unusable"),
    "holds a line feed": ("a\nb.json", "name_unusable"),
    "turns the reading round": ("gpj.\u202etxt", "name_unusable"),
    "is too long": ("a" * 256 + ".json", "name_unusable"),
    "is too long in bytes": ("模" * 86 + ".json", "name_unusable"),
    "lies too deep": ("/".join("abcdefghij") + "/x.json", "too_deep"),
    "differs by capitals": ("CONFIG.json", "names_collide"),
    "comes twice": ("config.json", "names_collide"),
    "is a folder as well": ("config.json/x.json", "names_collide"),
}


@pytest.mark.parametrize(("name", "code"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_name_that_no_folder_can_have_is_refused_and_nothing_is_fetched(tmp_path: Path, name: str, code: str) -> None:
    came = hostile_store(tmp_path, ["config.json", name, WEIGHTS])

    assert (came.status, came.code) == (2, code)
    assert {found for found, _ in came.faults} == {code}
    assert nothing_else_was_written(tmp_path, came)
    assert not list((came.folder / "model").iterdir())


def test_names_that_differ_by_how_an_accent_is_written_collide(tmp_path: Path) -> None:
    came = hostile_store(tmp_path, ["config.json", "caf\u00e9.txt", "cafe\u0301.txt"])

    assert came.code == "names_collide"


def test_all_wrong_names_are_told_at_once(tmp_path: Path) -> None:
    came = hostile_store(tmp_path, ["config.json", "../a", "b//c", "Config.JSON"])

    assert {code for code, _ in came.faults} == {"path_escape", "name_unusable", "names_collide"}


def test_a_real_store_s_own_odd_keys_are_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    """Control characters cannot stand in XML; keys are asked for encoded."""
    place = lake.put("odd/control", FILES | {"a\x01b.json": b"{}"})

    came = imported(tmp_path / "job", lake.origin(place))

    assert (came.status, came.faults) == (2, {("name_unusable", "a\\x01b.json")})


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "code", "status"),
    [({"max_bytes": 1000}, "source_too_large", 2), ({"max_files": 3}, "too_many_files", 2),
     ({"timeout_s": 0.001}, "source_too_slow", 1), ({"allow_networks": []}, "address_not_allowed", 2)],
)  # fmt: skip
def test_an_import_stays_within_its_limits(
    lake: Lake, tmp_path: Path, limit: dict[str, object], code: str, status: int
) -> None:
    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES), **limit))

    assert (came.status, came.code) == (status, code)
    assert not came.model.exists()


def test_a_disk_without_room_is_told_before_anything_comes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(landing, "RESERVE_BYTES", free * 2)

    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    assert came.code == "storage_full"
    assert list(came.folder.glob("fetched/*")) == []


def test_a_list_of_many_pages_is_one_folder(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LISTED_AT_ONCE", 2)

    came = imported(tmp_path / "job", lake.origin(lake.put("models/tiny", FILES)))

    assert came.status == 0, came.result.error
    assert len(asked_for(lake, "models/tiny/")) == len(FILES) > 4


def test_what_was_denied_meanwhile_is_not_fetched(lake: Lake, tmp_path: Path) -> None:
    origin = lake.origin(lake.put("models/tiny", FILES))

    came = imported(tmp_path / "job", origin.model_copy(update={"secret": None, "denied": "its grant was withdrawn"}))

    assert (came.status, came.code, came.message) == (2, "source_denied", "its grant was withdrawn")
    assert not (came.folder / "fetched").exists()


def test_no_secret_is_left_where_people_look(lake: Lake, tmp_path: Path) -> None:
    lake.put("models/tiny", FILES)
    for number, place in enumerate(("s3://lake/models/tiny", "s3://lake/none", "s3://nowhere/x")):
        came = imported(tmp_path / str(number), lake.origin(place))
        for path in (path for path in came.folder.rglob("*") if path.is_file() and path.name != "job.json"):
            assert KEYS["secret_key"].encode() not in path.read_bytes(), path
    assert json.loads((tmp_path / "0" / "result.json").read_text())["status"] == "succeeded"
