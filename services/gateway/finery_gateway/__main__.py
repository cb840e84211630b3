"""``python -m finery_gateway``: the gateway in its own process."""

import asyncio

from finery_gateway.app import build
from finery_gateway.settings import GatewaySettings
from finery_kit.settings import load


async def main() -> None:
    """Run until told to stop."""
    await build(load(GatewaySettings)).run()


if __name__ == "__main__":
    asyncio.run(main())
