"""The knobs of the notifier. A bad value stops the start and is named."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from finery_kit.settings import Networks, Settings, split


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except ValueError as fault:
        raise ValueError('must be a JSON object such as {"ops": "slack://…"}') from fault


Seconds = Annotated[tuple[Annotated[float, Field(ge=0)], ...], NoDecode, BeforeValidator(split)]
Channels = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_parsed)]
STANDARD_SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)


class NotifierSettings(Settings):
    """What the notifier needs beside what every service needs."""

    public_url: str = Field(
        default="http://127.0.0.1:8000", description="where people reach this installation: /confirm/<token> below it"
    )
    notifier_allow_networks: Networks = Field(
        default=(), description="internal networks that webhooks may go to, such as 127.0.0.0/8,10.1.0.0/16"
    )
    notifier_timeout_s: float = Field(default=20.0, gt=0, le=120, description="for one attempt")
    notifier_retry_schedule_s: Seconds = Field(
        default=STANDARD_SCHEDULE_S, description="waits after the first, second, … failed attempt; then it is dead"
    )
    notifier_concurrency: int = Field(
        default=128, ge=1, le=1024, description="attempts under way at the same time; half as many slow ones beside"
    )
    notifier_per_endpoint: int = Field(default=32, ge=1, le=1024, description="of them at one quick endpoint, at most")
    notifier_off_after_s: float = Field(
        default=259_200.0, gt=0, description="an endpoint that only failed for so long is switched off"
    )
    notifier_off_after_dead: int = Field(
        default=10, ge=1, description="and one for which so many deliveries in a row were given up"
    )
    notifier_channels: Channels = Field(
        default_factory=dict, description="name → apprise URL of a place that projects may subscribe by its name"
    )
    confirmation_ttl_s: float = Field(default=86_400.0, gt=0, description="how long a confirmation can be answered")
    smtp_host: str | None = Field(default=None, description="relay for e-mail; without it there is none")
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_from: str | None = Field(default=None, description="the sender, such as finery@example.com")

    @field_validator("public_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL such as https://finery.example.com")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _whole_relay(self) -> NotifierSettings:
        if self.smtp_host and ("@" not in (self.smtp_from or "") or "\n" in (self.smtp_from or "")):
            raise ValueError("FINERY_SMTP_HOST needs FINERY_SMTP_FROM, an address such as finery@example.com")
        if self.smtp_user and self.smtp_tls == "none":
            raise ValueError("FINERY_SMTP_USER needs FINERY_SMTP_TLS starttls or tls: no password goes in the clear")
        return self
