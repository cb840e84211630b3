"""An engine's view of its job folder: read the job, report, leave a result. It refuses to know who reads it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from finery_contracts.errors import FineryError
from finery_contracts.jobs import (
    CheckpointRef,
    EngineJob,
    EngineOutput,
    JobResult,
    Phase,
    Progress,
    Span,
)

EXIT_DONE, EXIT_USER_MISTAKE, EXIT_CRASH = 0, 2, 1


class Terminated(Exception):
    """SIGTERM arrived; ``output`` is what was saved before leaving."""

    def __init__(self, output: EngineOutput | None = None) -> None:
        super().__init__("terminated")
        self.output = output


class JobFolder:
    """One job folder, opened by its engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = EngineJob.model_validate_json((folder / "job.json").read_bytes())
        self.out = folder / "out"
        self.checkpoints = folder / "checkpoints"
        self.out.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.stop_requested = threading.Event()
        self._started = time.monotonic()
        self._progress: TextIO = (folder / "progress.jsonl").open("a", encoding="utf-8")
        self._phase = Phase.PREPARING
        self._trace_id, self._parent_id = _trace_of(self.job.traceparent)

    def progress(
        self,
        *,
        phase: Phase | None = None,
        step: int = 0,
        total: int = 0,
        message: str | None = None,
        eta_s: float | None = None,
        metrics: dict[str, float] | None = None,
        checkpoint: CheckpointRef | None = None,
    ) -> None:
        """Append one line; ``phase`` stays as it was unless given."""
        self._phase = phase or self._phase
        line = Progress(
            at=time.monotonic() - self._started,
            phase=self._phase,
            step=step,
            total=total,
            message=message,
            eta_s=eta_s,
            metrics=metrics or {},
            checkpoint=checkpoint,
        )
        self._progress.write(line.model_dump_json(exclude_defaults=True) + "\n")
        self._progress.flush()

    @contextlib.contextmanager
    def span(self, name: str, **attributes: str | int | float | bool) -> Iterator[dict[str, str | int | float | bool]]:
        """Time a stage; what the caller puts into the yielded dict becomes attributes."""
        span_id, parent = secrets.token_hex(8), self._parent_id
        self._parent_id = span_id
        start_ns, error = time.time_ns(), None
        try:
            yield attributes
        except BaseException as fault:
            error = type(fault).__name__
            raise
        finally:
            self._parent_id = parent
            line = Span(
                name=name, trace_id=self._trace_id, span_id=span_id, parent_id=parent,
                start_ns=start_ns, end_ns=time.time_ns(), attributes=attributes, error=error,
            )  # fmt: skip
            with (self.folder / "spans.jsonl").open("a", encoding="utf-8") as spans:
                spans.write(line.model_dump_json() + "\n")

    def leave(self, result: JobResult) -> None:
        """Write result.json, last and by rename."""
        self._progress.close()
        write_atomically(self.folder / "result.json", result.model_dump_json(indent=1))


def run(engine: Callable[[JobFolder], EngineOutput], argv: list[str] | None = None) -> int:
    """The whole life of an engine process: open, run, leave; the return value is the exit status.

    SIGTERM sets ``stop_requested``; an engine that looks at it raises ``Terminated`` with what it saved. When the
    starter's end of the life line (standard input) closes, the process acts as on SIGTERM, so no engine is orphaned.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not (Path(arguments[0]) / "job.json").is_file():
        print("usage: python -m <engine> JOB_DIR   (a folder with job.json)", file=sys.stderr)
        return EXIT_USER_MISTAKE
    work = JobFolder(Path(arguments[0]).resolve())
    signal.signal(signal.SIGTERM, lambda *_: work.stop_requested.set())
    watch_life_line(work.stop_requested.set)
    try:
        with work.span(f"engine.{work.job.spec.kind}", task_id=work.job.task_id, attempt=work.job.attempt):
            output = engine(work)
    except Terminated as left:
        work.leave(JobResult(status="terminated", output=left.output))
        return EXIT_DONE
    except FineryError as fault:
        traceback.print_exc()
        work.leave(JobResult(status="failed", error=fault.body))
        return EXIT_CRASH if fault.retryable else EXIT_USER_MISTAKE
    except BaseException:
        traceback.print_exc()
        return EXIT_CRASH
    work.leave(JobResult(status="succeeded", output=output))
    return EXIT_DONE


def watch_life_line(on_closed: Callable[[], None]) -> None:
    """Call ``on_closed`` when the pipe named by FINERY_LIFE_LINE closes: the starter died. Without one, do nothing."""
    descriptor = os.environ.get("FINERY_LIFE_LINE")
    if not descriptor:
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(descriptor), 1):
                pass
        on_closed()

    threading.Thread(target=wait, name="life-line", daemon=True).start()


def cluster_address() -> str | None:
    """The Ray cluster that the worker's operator named; None: this machine alone."""
    return os.environ.get("RAY_ADDRESS")


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename: a reader sees all of it or nothing."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _trace_of(traceparent: str | None) -> tuple[str, str | None]:
    match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", traceparent or "")
    return (match[1], match[2]) if match else (secrets.token_hex(16), None)
