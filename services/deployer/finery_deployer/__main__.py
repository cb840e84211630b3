"""``python -m finery_deployer``: the deployer in its own process; its instances outlive it."""

import asyncio

from finery_deployer.app import build
from finery_deployer.settings import DeployerSettings
from finery_kit.settings import load


async def main() -> None:
    """Run until told to stop."""
    await build(load(DeployerSettings)).run()


if __name__ == "__main__":
    asyncio.run(main())
