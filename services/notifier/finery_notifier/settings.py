"""The knobs of the notifier. A bad value stops the start and is named."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from finery_kit.settings import Settings


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[tuple[Annotated[float, Field(ge=0)], ...], NoDecode, BeforeValidator(_split)]
STANDARD_SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)


class NotifierSettings(Settings):
    """What the notifier needs beside what every service needs."""

    public_url: str = Field(
        default="http://127.0.0.1:8000", description="where people reach this installation: /confirm/<token> below it"
    )
    notifier_allow_networks: Networks = Field(
        default=(), description="internal networks that webhooks may go to, such as 127.0.0.0/8,10.1.0.0/16"
    )
    notifier_timeout_s: float = Field(default=20.0, gt=0, le=120, description="for one webhook attempt")
    notifier_retry_schedule_s: Seconds = Field(
        default=STANDARD_SCHEDULE_S, description="waits after the first, second, … failed attempt; then it is dead"
    )
    notifier_concurrency: int = Field(default=64, ge=1, le=1024, description="attempts under way at the same time")
    confirmation_ttl_s: float = Field(default=86_400.0, gt=0, description="how long a confirmation can be answered")

    @field_validator("public_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL such as https://finery.example.com")
        return value.rstrip("/")
