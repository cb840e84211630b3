"""The knobs of the compressor: those that every service has."""

from __future__ import annotations

from finery_kit.settings import Settings


class CompressorSettings(Settings):
    """What the compressor needs."""
