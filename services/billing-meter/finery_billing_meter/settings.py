"""The knobs of the billing meter. A bad value stops the start and is named."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from finery_kit.settings import Settings


class BillingMeterSettings(Settings):
    """What the billing meter needs beside what every service needs."""

    prices_file: Path | None = Field(default=None, description="a price list instead of the one that is shipped")
