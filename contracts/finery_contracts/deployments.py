"""Deployments: a model behind an endpoint. Not a task: they have the states of SPEC DE2."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.autostop import AutoStopSeconds
from finery_contracts.envelope import Event
from finery_contracts.errors import ErrorBody
from finery_contracts.model import Record, Request, UtcTime
from finery_contracts.tasks import NotifyChoice


class DeploymentState(StrEnum):
    """SPEC DE2."""

    DEPLOYING = "deploying"
    RUNNING = "running"
    ALARM = "alarm"
    ABNORMAL = "abnormal"
    UPGRADING = "upgrading"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class DeploymentView(Record):
    """A deployment's whole public state."""

    id: str
    project: str
    name: str = Field(description="what callers say as `model`")
    description: str = ""
    model: str = Field(description="model id")
    model_name: str
    trial: bool = Field(default=False, description="started by a call on an ft: name, stopped when idle")
    state: DeploymentState
    version: int
    created_by: str
    created_at: UtcTime
    running_at: UtcTime | None = None
    stopped_at: UtcTime | None = None
    pool: str = "public"
    flavour: str = "cpu"
    instances: int = 1
    qps: float = Field(description="requests per second for each instance; total = qps x instances")
    default_max_tokens: int | None = 16
    max_length: int = 4096
    idle_stop_s: float | None = None
    auto_stop_s: int | None = None
    auto_stop_at: UtcTime | None = Field(default=None, description="when it stops by itself; known once that is near")
    running_s: float = 0.0
    runs: int = Field(default=0, description="how often it was started")
    notify: NotifyChoice | None = None
    error: ErrorBody | None = None


class DeploymentFact(Event):
    """A fact about a deployment."""

    NOUN = "deployment"
    SAID_BY = "deployer"
    data: DeploymentView


class DeploymentDeploying(DeploymentFact):
    """An instance is being started."""

    FACT = "deploying"


class DeploymentRunning(DeploymentFact):
    """It answers requests; from here on running time is billed."""

    FACT = "running"


class DeploymentStopping(DeploymentFact):
    """It takes no new requests and finishes the ones it has."""

    FACT = "stopping"


class DeploymentStopped(DeploymentFact):
    """It is stopped and can be started again."""

    FACT = "stopped"


class DeploymentFailed(DeploymentFact):
    """It could not be started or died; ``error`` says why."""

    FACT = "failed"


class DeploymentDeleted(DeploymentFact):
    """The deployment is gone and its name is free."""

    FACT = "deleted"


class DeploymentAutoStopSoon(DeploymentFact):
    """Its auto-stop is near: ``auto_stop_at``."""

    FACT = "auto_stop_soon"


class InstanceInterval(Record):
    """What billing counts. Key: (instance, n)."""

    instance: str
    n: int
    started_at: UtcTime
    running_s: float
    billed: bool = True


class InstanceEndedData(Record):
    """An instance's running time, with the deployment as it is then."""

    deployment: DeploymentView
    interval: InstanceInterval


class DeploymentInstanceEnded(Event):
    """An interval of an instance's running time ended; this is what billing counts."""

    NOUN = "deployment"
    FACT = "instance_ended"
    SAID_BY = "deployer"
    data: InstanceEndedData


# --- requests to the deployer (finery.rpc.deployer.<verb>) ------------------------------------------------------------


class DeployRequest(Request):
    """Deploy a model under a name. ``model`` is resolved by the studio before it is forwarded."""

    name: str
    model: str = Field(description="model id or name, or an ft: name")
    description: str = Field(default="", max_length=256)
    pool: str = "public"
    flavour: str = "cpu"
    instances: int = Field(default=1, ge=1, le=1, description="one on the embedded engine")
    qps: float = Field(default=5.0, gt=0, le=10_000)
    default_max_tokens: int | None = Field(default=16, ge=1)
    max_length: int | None = Field(default=None, ge=16)
    idle_stop_s: float | None = Field(default=None, ge=1)
    auto_stop_s: AutoStopSeconds | None = Field(
        default=None, description="stop after so many running seconds; off by default"
    )
    notify: NotifyChoice | None = None


class ServableModel(Record):
    """What the deployer must know of a model, put together by the studio, who owns models."""

    id: str
    project: str
    name: str
    openai_name: str | None
    weights: str
    adapter: str | None
    max_length: int
    warnings: list[str] = Field(default_factory=list[str], description="what its policy lets pass, but not unsaid")


class DeployCommand(Record):
    """``finery.rpc.deployer.create``."""

    request: DeployRequest
    model: ServableModel


class DeploymentCommand(Record):
    """``finery.rpc.deployer.{get,start,stop,delete}``."""

    deployment: str = Field(description="id or name")


class DeploymentsRequest(Request):
    """``finery.rpc.deployer.list``, oldest first: what comes after the id ``after``."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class DeploymentPage(Record):
    """Deployments; ``next`` is the ``after`` of the next page."""

    data: list[DeploymentView]
    has_more: bool = False
    next: str | None = None


class ServableRequest(Record):
    """``finery.rpc.studio.servable``: answered with a ``ServableModel`` of the actor's project, or model_not_found."""

    name: str = Field(max_length=512, description="an ft: name")


class WakeCommand(Record):
    """``finery.rpc.deployer.wake``: a call on an ft: name came; start its trial unless it runs."""

    model: ServableModel


class Route(Record):
    """KV bucket ``routes``, key ``<project>.<deployment id>``: where the gateway sends calls.

    The last of ``names`` is the one the instance serves under; ``revision`` is the deployment's version.
    """

    deployment: str
    project: str
    names: list[str]
    state: DeploymentState
    url: str | None = None
    token: str | None = None
    qps: float
    default_max_tokens: int | None = None
    max_length: int
    revision: int
