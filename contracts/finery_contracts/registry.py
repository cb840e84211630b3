"""All events by type: parse what came, and render the schemas. A type that is not here is not an event of ours."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from finery_contracts import (
    access,
    autostop,
    billing,
    budgets,
    connections,
    datasets,
    deployments,
    grants,
    inbound,
    labelling,
    models,
    notifications,
    packages,
    tasks,
    usage,
)
from finery_contracts.envelope import Event

EVENTS: dict[str, type[Event]] = {
    event.type_name(): event
    for event in (
        access.ProjectCreated,
        tasks.TaskCreated,
        tasks.TaskQueued,
        tasks.TaskPreparing,
        tasks.TaskRunning,
        tasks.TaskRetrying,
        tasks.TaskPaused,
        tasks.TaskResumed,
        tasks.TaskSuspectedHang,
        tasks.TaskAutoStopSoon,
        tasks.TaskDeleted,
        tasks.TaskMoveRefused,
        tasks.TaskAttemptEnded,
        tasks.TaskSucceeded,
        tasks.TaskFailed,
        tasks.TaskTerminated,
        datasets.DatasetRegistered,
        datasets.DatasetUploaded,
        datasets.DatasetReady,
        datasets.DatasetRejected,
        datasets.DatasetDeleted,
        datasets.DatasetRestored,
        datasets.DatasetWithdrawn,
        datasets.DatasetFlagged,
        labelling.LabellingCreated,
        labelling.LabellingFinished,
        labelling.LabellingClosed,
        labelling.LabellingDeleted,
        models.ModelCreated,
        models.ModelReady,
        models.ModelInvalid,
        models.ModelPublished,
        models.ModelExpiresSoon,
        models.ModelDeleted,
        models.ModelRestored,
        models.ModelMadeCurrent,
        models.ModelSteppedBack,
        models.ModelSigned,
        models.ModelFlagged,
        deployments.DeploymentDeploying,
        deployments.DeploymentRunning,
        deployments.DeploymentStopping,
        deployments.DeploymentStopped,
        deployments.DeploymentFailed,
        deployments.DeploymentDeleted,
        deployments.DeploymentAutoStopSoon,
        deployments.DeploymentInstanceEnded,
        usage.UsageRecorded,
        notifications.SubscriptionConfirmed,
        notifications.SubscriptionDisabled,
        notifications.SubscriptionEnabled,
        notifications.SubscriptionEnded,
        notifications.DeliveryDied,
        notifications.NotificationMetered,
        billing.BillingCharged,
        autostop.AutoStopWarned,
        autostop.AutoStopDue,
        budgets.BudgetAlerted,
        budgets.BudgetExhausted,
        budgets.BudgetRestored,
        packages.PackageBought,
        packages.PackageLow,
        packages.PackageUsedUp,
        packages.PackageExpired,
        inbound.InboundRefused,
        connections.ConnectionRegistered,
        connections.ConnectionDeleted,
        grants.GrantGiven,
        grants.GrantNarrowed,
        grants.GrantWithdrawn,
        grants.GrantExpired,
    )
}


class UnknownEventType(ValueError):
    """The message is no event of this version of Finery."""


def parse_event(body: bytes) -> Event:
    """The event in these bytes.

    Raises:
        UnknownEventType: well-formed, but of a type this version does not know (a newer peer's).
        pydantic.ValidationError: not one of our events.
    """
    kind = _OBJECT.validate_json(body).get("type")
    model = EVENTS.get(str(kind))
    if model is None:
        raise UnknownEventType(f"no event type {kind!r}")
    return model.model_validate_json(body)


def parse_said(subject: str, body: bytes) -> Event:
    """The event in these bytes, found by the subject it was said on: they are read once. Raises as ``parse_event``."""
    return parse_at(place_of(subject), body)


def parse_at(place: str, body: bytes) -> Event:
    """The same, for whoever has looked at the subject already."""
    model = _BY_PLACE.get(place)
    if model is not None:
        try:
            event = model.model_validate_json(body)
        except ValidationError:
            return parse_event(body)
        if event.type == model.type_name():
            return event
    return parse_event(body)


def place_of(subject: str) -> str:
    """``finery.evt.<project>.<noun>.<id>.<fact>`` → ``<noun>.<fact>``."""
    tokens = subject.split(".")
    return f"{tokens[3]}.{tokens[5]}" if len(tokens) == 6 else ""


_OBJECT = TypeAdapter(dict[str, Any])
_BY_PLACE = {f"{event.NOUN}.{event.FACT}": event for event in EVENTS.values()}

__all__ = ["EVENTS", "UnknownEventType", "ValidationError", "parse_at", "parse_event", "parse_said", "place_of"]
