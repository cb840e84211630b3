"""The knobs of the gateway. A bad value stops the start and is named."""

from __future__ import annotations

from pydantic import Field, field_validator

from finery_kit.settings import Settings


class GatewaySettings(Settings):
    """What the gateway needs beside what every service needs."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8000, ge=1, le=65535)
    studio_url: str = Field(default="http://127.0.0.1:8081", description="where everything but completions goes")
    gateway_max_body_bytes: int = Field(default=10 * 2**20, ge=1024, description="of a completion request")
    gateway_body_timeout_s: float = Field(default=60.0, gt=0, description="for a completion request to arrive whole")
    gateway_wake_s: float = Field(default=60.0, gt=0, description="how long a call waits for the trial that it wakes")
    gateway_silence_s: float = Field(default=600.0, gt=0, description="an instance silent for so long is given up")
    gateway_resync_s: float = Field(default=60.0, gt=0, description="keys and routes are read afresh this often")
    gateway_ship_interval_s: float = Field(default=1.0, gt=0, description="how often usage is put on the bus")
    gateway_segment_bytes: int = Field(default=8 * 2**20, ge=1024, description="a usage segment rolls at this size")

    @field_validator("studio_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL such as http://127.0.0.1:8081")
        return value.rstrip("/")
