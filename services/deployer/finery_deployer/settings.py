"""The knobs of the deployer. A bad value stops the start and is named."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from finery_kit.settings import Settings


class DeployerSettings(Settings):
    """What the deployer needs beside what every service needs."""

    engines_root: Path | None = Field(default=None, description="engine environments; default: .engines beside .venv")
    deployer_interval_s: float = Field(
        default=1.0, gt=0, le=60, description="how often running instances are looked at"
    )
    deployer_start_timeout_s: float = Field(
        default=120.0, gt=0, description="an instance that is not ready by then failed"
    )
    deployer_unhealthy_s: float = Field(default=60.0, gt=0, description="an instance silent for so long is replaced")
    deployer_drain_grace_s: float = Field(
        default=0.5, ge=0, description="between telling the gateways and SIGTERM, so that the word arrives"
    )
    deployer_kill_after_s: float = Field(default=35.0, gt=0, description="SIGKILL for an instance that does not drain")
    deployer_max_restarts: int = Field(default=3, ge=0, description="after crashes within the window; then failed")
    deployer_restart_window_s: float = Field(default=600.0, gt=0)
    deployer_failed_rest_s: float = Field(default=30.0, ge=0, description="a failed trial is not woken again before")
    deployer_max_instances: int = Field(default=8, ge=1, description="of all projects, on this machine")
    deployer_threads: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, description="an instance's"
    )
    deployer_warm: bool = Field(default=True, description="fork instances from a host that has the imports done")
    deployer_stop_instances_on_exit: bool = Field(
        default=False,
        description="embedded use sets it; otherwise instances outlive the deployer and are adopted again",
    )
    trial_idle_s: float = Field(
        default=300.0, ge=1, description="a trial deployment stops after so long without a call"
    )
