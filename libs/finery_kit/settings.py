"""Settings of a service: read once at the start, from the environment; a bad value stops the start and is named."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, TypeVar

import pydantic_settings
import yaml
from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from finery_contracts import retention
from finery_contracts.retention import Retention


def split(value: object) -> object:
    """A list as people write it in an environment: with commas between, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as fault:
            raise ValueError(f"it begins as a JSON list does, and is none ({fault})") from fault
    return tuple(part.strip() for part in value.split(",") if part.strip())


Paths = Annotated[list[Path], NoDecode, BeforeValidator(split)]
Texts = Annotated[list[str], NoDecode, BeforeValidator(split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(split)]
RETENTION = Path(retention.__file__).with_name("retention.yaml")


class Settings(BaseSettings):
    """What every service needs. A service adds its own in ``settings.py``; the prefix is FINERY_."""

    model_config = SettingsConfigDict(env_prefix="FINERY_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".finery"), description="where state lies when nothing else is said")
    nats_url: str = Field(default="nats://127.0.0.1:4222", description="with the service's credential")
    database_url: str | None = Field(default=None, description="default: a SQLite file under home/db")
    store_root: Path | None = Field(default=None, description="artefacts; default: home/store")
    installation_secret: str = Field(default="", description="64 hex digits; default: the file home/secret")
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("otlp_endpoint", "FINERY_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    log_level: str = "INFO"
    outbox_limit: int = Field(
        default=20_000, ge=1, description="events that may wait for the bus before writes are refused"
    )
    retention_file: Path | None = Field(default=None, description="how long things are kept; default: as shipped")

    @property
    def retention(self) -> Retention:
        """How long things are kept.

        Raises:
            SettingsError: the file cannot be read, or a value in it is not valid.
        """
        path = self.retention_file or RETENTION
        try:
            return Retention.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
            raise SettingsError(f"finery: FINERY_RETENTION_FILE {path} cannot be read: {fault}") from fault
        except ValidationError as fault:
            lines = [f"  {'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg']}" for e in fault.errors()]
            message = f"finery: the policy {path} (FINERY_RETENTION_FILE) is not valid\n" + "\n".join(lines)
            raise SettingsError(message) from fault

    def database_for(self, service: str) -> str:
        """The URL of this service's database."""
        if self.database_url:
            return self.database_url.replace("{service}", service.replace("-", "_"))
        folder = self.home / "db"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / service}.sqlite"

    @property
    def store(self) -> Path:
        """The folder artefacts lie in."""
        return (self.store_root or self.home / "store").resolve()

    @property
    def spans_file(self) -> Path:
        """Where spans are kept locally."""
        return self.home / "spans.jsonl"

    @property
    def secret(self) -> bytes:
        """The installation's secret: keys are hashed with it, bus credentials are derived from it."""
        return bytes.fromhex(self.installation_secret or (self.home / "secret").read_text().strip())


S = TypeVar("S", bound=BaseSettings)


class SettingsError(SystemExit):
    """A setting is wrong; the message names the variable."""


def load(kind: type[S], **overrides: object) -> S:
    """Read the settings, or stop with the names of those that are wrong."""
    try:
        return kind(**overrides)  # pyright: ignore[reportArgumentType]
    except ValidationError as fault:
        lines = [f"  FINERY_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in fault.errors()]
        raise SettingsError("finery: the configuration is not valid\n" + "\n".join(lines)) from fault
    except pydantic_settings.SettingsError as fault:
        raise SettingsError(f"finery: the configuration is not valid\n  {fault}; write it as JSON") from fault
