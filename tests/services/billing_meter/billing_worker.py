"""A billing meter without a bus in a process of its own, to be killed: python billing_worker.py FOLDER SEED."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path


def meter(folder: Path):
    from billing_rig import Rig
    from test_billing_exactly_once import PRICES_NOW

    from finery_billing_meter.ledger.store import BILLING_METADATA
    from finery_kit.db import Database
    from finery_kit.delivery import DELIVERY_METADATA

    return Rig(Database(f"sqlite:///{folder / 'b.sqlite'}", BILLING_METADATA, DELIVERY_METADATA), PRICES_NOW)


async def work(folder: Path, seed: int) -> None:
    from finery_contracts.registry import parse_event

    facts = [parse_event(line) for line in (folder / "facts.jsonl").read_bytes().splitlines()]
    random.Random(seed).shuffle(facts)
    rig = meter(folder)
    rig.database.open()
    for place in range(0, len(facts), 7):
        await rig.hear_all(facts[place : place + 7])
        print(place, flush=True)
    rig.database.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
