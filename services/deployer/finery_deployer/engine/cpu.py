"""Serve one model folder until SIGTERM: serve.json in, ready.json out, then HTTP. Run: python -m … JOB_DIR.

It outlives the deployer that started it and watches nothing. A folder that cannot be served ends it with status 2 and
a coded error in result.json.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch
from aiohttp import web

from finery_contracts.errors import FineryError
from finery_contracts.jobs import JobResult, ServeJob, ServeReady
from finery_deployer.engine.beam import BeamRun
from finery_deployer.engine.generation import Order, Run, SampledRun
from finery_deployer.engine.http import Endpoint
from finery_deployer.engine.model import ServedModel, load
from finery_deployer.engine.scheduler import Scheduler
from finery_ml.job import EXIT_DONE, EXIT_USER_MISTAKE, write_atomically

DRAIN_S = 30.0
"""How long requests that were accepted may take to end after SIGTERM."""

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """The whole life of a serving process; the return value is the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not (Path(arguments[0]) / "serve.json").is_file():
        print("usage: python -m finery_deployer.engine.cpu JOB_DIR   (a folder with serve.json)", file=sys.stderr)
        return EXIT_USER_MISTAKE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    folder = Path(arguments[0]).resolve()
    job = ServeJob.model_validate_json((folder / "serve.json").read_bytes())
    torch.set_num_threads(job.threads)
    try:
        served = load(job)
    except FineryError as fault:
        traceback.print_exc()
        write_atomically(folder / "result.json", JobResult(status="failed", error=fault.body).model_dump_json(indent=1))
        return EXIT_USER_MISTAKE
    asyncio.run(serve(folder, job, served))
    return EXIT_DONE


async def serve(folder: Path, job: ServeJob, served: ServedModel) -> None:
    """Answer until SIGTERM, then drain: requests that were accepted end, at the latest after ``DRAIN_S``."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    scheduler = Scheduler(lambda order: _begin(served, order))
    scheduler.start()
    endpoint = Endpoint(served, scheduler, name=job.served_name, token=job.token)
    # handler_cancellation: a caller who goes away cancels its handler, which takes its request out of the scheduler.
    runner = web.AppRunner(
        endpoint.application(), handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    await web.TCPSite(runner, job.host, 0).start()
    ready = ServeReady(pid=os.getpid(), port=runner.addresses[0][1], max_length=served.max_length)
    write_atomically(folder / "ready.json", ready.model_dump_json())
    log.info("engine_ready port=%s dtype=%s device=%s", ready.port, served.model.dtype, served.device)
    await stop.wait()
    scheduler.drain()
    log.info("engine_draining active=%s", scheduler.status().active)
    await endpoint.settle(within_s=DRAIN_S)
    await asyncio.to_thread(scheduler.close)
    await endpoint.settle(within_s=1.0)
    await runner.cleanup()
    endpoint.close()
    log.info("engine_stopped")


def _begin(served: ServedModel, order: Order) -> Run:
    return BeamRun(served, order) if order.beam_search else SampledRun(served, order)


def _leave(signum: int, frame: object) -> NoReturn:
    """SIGTERM before anything was accepted: there is nothing to drain."""
    raise SystemExit(EXIT_DONE)


if __name__ == "__main__":
    raise SystemExit(main())
