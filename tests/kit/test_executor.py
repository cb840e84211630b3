"""Engines as child processes: cold and warm, with a life line, without our secrets."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finery_contracts.errors import Unavailable
from finery_kit import executor as kit
from finery_kit.executor import LocalExecutor, kill, terminate

ENGINE = """
import json, os, signal, sys, time
from pathlib import Path
from finery_ml.job import watch_life_line

def main(argv=None):
    folder = Path((argv or sys.argv[1:])[0])
    how = json.loads((folder / "how.json").read_text())
    print("at work", flush=True)
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "waiting").touch()
        time.sleep(60)
    if how == "wait":
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        watch_life_line(lambda: stopped.append(2))
        (folder / "waiting").touch()
        while not stopped:
            time.sleep(0.01)
        (folder / "stopped").write_text(str(stopped[0]))
        return 0
    return how

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
async def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalExecutor]:
    """An engine environment whose Python is this one, with one engine in it."""
    binaries = tmp_path / "engines" / "ml" / "bin"
    binaries.mkdir(parents=True)
    module = tmp_path / "modules"
    module.mkdir()
    (module / "an_engine.py").write_text(ENGINE)
    script = f'#!/bin/sh\nPYTHONPATH={module} exec {sys.executable} "$@"\n'
    (binaries / "python").write_text(script)
    (binaries / "python").chmod(0o755)
    monkeypatch.setattr(kit, "PRELOAD", "json")
    monkeypatch.setenv("FINERY_NATS_URL", "nats://user:secret@bus")
    found = LocalExecutor(tmp_path / "engines")
    yield found
    await found.close()


def a_job(tmp_path: Path, how: object) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "how.json").write_text(json.dumps(how))
    return folder


async def seen(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("warm", ["always", "never", "if_ready"])
@pytest.mark.parametrize("status", [0, 2, 7])
async def test_an_engine_runs_and_its_status_and_log_arrive(
    executor: LocalExecutor, tmp_path: Path, warm: kit.Warmth, status: int
) -> None:
    folder = a_job(tmp_path, status)

    process = await executor.start("an_engine", folder, warm=warm)

    assert await process.wait() == status
    assert (folder / "log.txt").read_text() == "at work\n"
    known = json.loads((folder / "environment.json").read_text())
    assert known["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not any("secret" in value for value in known.values())
    assert {name for name in known if name.startswith("FINERY_")} == {"FINERY_LIFE_LINE"}


@pytest.mark.parametrize("warm", ["always", "never"])
async def test_terminate_lets_the_engine_save_and_leave(
    executor: LocalExecutor, tmp_path: Path, warm: kit.Warmth
) -> None:
    folder = a_job(tmp_path, "wait")
    process = await executor.start("an_engine", folder, warm=warm)
    await seen(folder / "waiting")

    assert await terminate(process) == 0
    assert (folder / "stopped").read_text() == "1"


@pytest.mark.parametrize("warm", ["always", "never"])
async def test_a_killed_engine_ends_with_its_signal(executor: LocalExecutor, tmp_path: Path, warm: kit.Warmth) -> None:
    folder = a_job(tmp_path, "wait")
    process = await executor.start("an_engine", folder, warm=warm)
    await seen(folder / "waiting")
    kill(process)
    assert await process.wait() == -9


@pytest.mark.parametrize("warm", ["always", "never"])
async def test_an_engine_that_does_not_leave_is_killed_after_the_grace_time_while_another_waits_for_it(
    executor: LocalExecutor, tmp_path: Path, warm: kit.Warmth
) -> None:
    folder = a_job(tmp_path, "deaf")
    process = await executor.start("an_engine", folder, warm=warm)
    await seen(folder / "waiting")
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)  # it waits before the other does, as an attempt does

    assert await asyncio.wait_for(terminate(process, grace_s=0.1), 10) == -9
    assert await waiting == -9
    assert await process.wait() == -9


async def test_a_warm_host_that_cannot_be_started_makes_engines_start_cold(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    python = executor.python("ml")
    python.write_text(python.read_text().replace("sh\n", 'sh\n[ "$2" = finery_ml.warm ] && exit 1\n'))

    process = await executor.start("an_engine", a_job(tmp_path, 0), warm="always")

    assert await process.wait() == 0


async def test_a_cold_engine_stops_itself_when_its_starter_is_gone(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = a_job(tmp_path, "wait")
    process = await executor.start("an_engine", folder, warm="never")
    await seen(folder / "waiting")

    line, process.life_line = process.life_line, None  # type: ignore[attr-defined]
    os.close(line)  # what the end of this process would do

    assert await process.wait() == 0
    assert (folder / "stopped").read_text() == "2"


async def test_an_engine_without_a_life_line_outlives_its_starter(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = a_job(tmp_path, "wait")
    process = await executor.start("an_engine", folder, warm="never", life_line=False)
    await seen(folder / "waiting")
    assert process.life_line is None  # type: ignore[attr-defined]
    assert "FINERY_LIFE_LINE" not in json.loads((folder / "environment.json").read_text())
    assert await terminate(process) == 0


async def test_an_engine_stops_itself_when_its_starter_is_gone(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = a_job(tmp_path, "wait")
    process = await executor.start("an_engine", folder, warm="always")
    await seen(folder / "waiting")

    process.writer.close()  # type: ignore[attr-defined] - what the end of this process would do

    await seen(folder / "stopped")
    assert (folder / "stopped").read_text() == "2"


async def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="finery engines install ml"):
        await LocalExecutor(tmp_path).start("an_engine", tmp_path)
