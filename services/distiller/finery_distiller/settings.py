"""The knobs of the distiller: those that every service has."""

from __future__ import annotations

from finery_kit.settings import Settings


class DistillerSettings(Settings):
    """What the distiller needs."""
