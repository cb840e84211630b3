"""One request for each POST of studio's surface, another that it must not be taken for, and owners that answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from labelling_rig import dataset, talks
from repair_rig import valid
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.access import Actor
from finery_contracts.dead import Replayed
from finery_contracts.errors import FineryError, NotFound
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_studio.datasets import removal as dataset_removal
from finery_studio.edge import forward
from finery_studio.edge.wishes import KEY_HEADER
from finery_studio.models import versions

WITHOUT_KEY = {"/confirm/{token}", "/unsubscribe/{token}"}
"""Links that a person opens: no API key, so no project, and opening them twice is harmless anyway."""
LABELLINGS = "/api/v1/labellings"
FILE = {"file": ("train.jsonl", b'{"messages": []}\n')}
OTHER_FILE = {"file": ("train.jsonl", b'{"messages": [1]}\n')}


WHEN, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
PRICE = {"seconds": 60, "hours": "0.016666667", "amount": "0.01"}
BILLED: dict[str, dict[str, Any]] = {
    "budget.create": {
        "name": "month", "period": "month", "limit": "100", "currency": "EUR", "stop": False, "created_at": WHEN,
        "created_by": "u", "version": 1,
    },
    "package.buy": {
        "offer": "year", "flavour": "cpu", "hours": "10", "reset": "month", "price": "1", "currency": "EUR",
        "low_percent": 10, "bought_at": WHEN, "bought_by": "u", "version": 1, "state": "active", "period": 0,
        "starts_at": WHEN, "ends_at": LATER, "period_start": WHEN, "period_end": LATER, "used_hours": "0",
        "left_hours": "10",
    },
    "estimate": {
        "flavour": "cpu", "instances": 1, "per_hour": "1", "currency": "EUR", "low": PRICE, "expected": PRICE,
        "high": PRICE,
    },
}  # fmt: skip


@dataclass
class Owner:
    """Owners of other nouns, as they answer: each wish once, by its key."""

    done: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    fault: FineryError | None = None

    async def __call__(
        self, owner: str, verb: str, body: Any, answer: Any, *, actor: Actor, idempotency_key: str | None = None,
        digest: str | None = None, timeout_s: float = 0,
    ) -> forward.Anything:  # fmt: skip
        if verb == "list":
            return forward.Anything({"data": [], "has_more": False})
        self.asked.append((verb, idempotency_key))
        if self.fault is not None:
            raise self.fault
        name = f"{idempotency_key}/{digest}" if idempotency_key else str(len(self.asked))
        return forward.Anything(self.done.setdefault(name, self._made(verb, actor)))

    def _made(self, verb: str, actor: Actor) -> dict[str, Any]:
        number = len(self.done)
        if verb == "rebuild":
            return {"owner": "studio", "running": True, "waiting": number}
        if verb in BILLED:
            return {**BILLED[verb], "id": f"{verb}_{number}", "project": actor.project}
        made = {"id": f"{verb}_{number}", "project": actor.project, "name": "chat", "secret": f"whsec_{number}"}
        view = {
            "model": "m", "model_name": "m", "state": "running", "qps": 1, "version": 1, "created_by": "u",
            "created_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        return {**made, **view} if verb in ("create", "start", "stop", "get") else made


@dataclass(frozen=True)
class Letters:
    """Dead letters, each of which can be replayed once."""

    owner: Owner
    jetstream: None

    async def replay(self, number: int) -> Replayed:
        if f"letter {number}" in self.owner.done:
            raise NotFound("gone")
        self.owner.done[f"letter {number}"] = {}
        return Replayed(id=number, durable="studio", subject="finery.evt.p.task.t.created")


@dataclass(frozen=True)
class Sent:
    """A request, and another one that it must not be taken for."""

    path: str
    said: dict[str, Any]
    other: dict[str, Any]


async def some_task(studio: Rig) -> str:
    return (await studio.tune((await studio.upload()).id)).id


async def _paused(studio: Rig) -> str:
    task = await some_task(studio)
    await studio.write(lambda tx: studio.studio.tasks.pause(tx, studio.actor.project, task))
    return task


async def tuning(studio: Rig) -> Sent:
    wish = {"kind": "tune", "model": GALLERY_MODEL, "dataset": (await studio.upload()).id}
    return Sent("/api/v1/tasks", {"json": wish}, {"json": {**wish, "name": "other"}})


async def _job(studio: Rig) -> Sent:
    wish = {"model": GALLERY_MODEL, "training_file": f"file-{(await studio.upload()).id.split('_')[1]}"}
    return Sent("/v1/fine_tuning/jobs", {"json": wish}, {"json": {**wish, "suffix": "other"}})


async def _cancel(studio: Rig) -> Sent:
    return Sent(
        f"/v1/fine_tuning/jobs/ftjob-{(await some_task(studio)).split('_')[1]}/cancel", {}, {"json": {"other": 1}}
    )


async def _published(studio: Rig) -> Sent:
    await some_task(studio)
    done = await studio.work()
    model = (await studio.task(done[-1].task_id)).result["model"]
    return Sent(f"/api/v1/models/{model}/publish", {"json": {"name": "kept"}}, {"json": {"name": "other"}})


async def _former(studio: Rig) -> Sent:
    for _ in range(2):
        await some_task(studio)
        done = await studio.work()
        model = (await studio.task(done[-1].task_id)).result["model"]
        await studio.write(
            lambda tx, ref=model: versions.publish(tx, studio.actor.project, ref, "kept", new_version=True)
        )
    return Sent("/api/v1/models/kept@1/current", {}, {"json": {"other": 1}})


async def _bundle(studio: Rig) -> Sent:
    """Of the base, whose files are put there."""
    await some_task(studio)
    await studio.work()
    base = await studio.model(GALLERY_MODEL)
    studio.studio.storage.place(f"{base.weights}/config.json").write_text("{}")
    async with studio.http() as api:
        files = {"file": ("m.tar", (await api.get(f"/api/v1/models/{base.id}/export")).content)}
    path = "/api/v1/models/import-bundle"
    return Sent(path, {"files": files, "data": {"name": "one"}}, {"files": files, "data": {"name": "other"}})


async def _deleted_model(studio: Rig) -> Sent:
    await some_task(studio)
    done = await studio.work()
    model = (await studio.task(done[-1].task_id)).result["model"]
    desk = studio.studio.models
    await studio.write(lambda tx: desk.delete(tx, studio.actor.project, model, [], restorable=True))
    return Sent(f"/api/v1/models/{model}/restore", {}, {"json": {"other": 1}})


async def _deleted_dataset(studio: Rig) -> Sent:
    dataset = await studio.upload()
    await studio.work()
    await studio.write(lambda tx: dataset_removal.delete(tx, studio.actor.project, dataset.id, restorable_hours=24))
    return Sent(f"/api/v1/datasets/{dataset.id}/restore", {}, {"json": {"other": 1}})


async def _proposed(studio: Rig) -> Sent:
    await studio.work()
    name = new_id("glm").replace("_", "-")
    await valid(studio, "generation_do_sample", "tokenizer_pad_token", name=name)
    wish = {"apply": ["generation_do_sample"]}
    return Sent(f"/api/v1/models/{name}/repairs", {"json": wish}, {"json": {"apply": ["tokenizer_pad_token"]}})


async def _withdrawing(studio: Rig) -> Sent:
    dataset = await studio.upload()
    await studio.work()
    path = f"/api/v1/datasets/{dataset.id}/withdraw"
    return Sent(path, {"json": {"reason": "consent"}}, {"json": {"reason": "other"}})


async def _deploy(studio: Rig) -> Sent:
    await some_task(studio)
    await studio.work(TaskKind.IMPORT, TaskKind.VALIDATE)
    wish = {"name": "chat", "model": GALLERY_MODEL}
    return Sent("/api/v1/deployments", {"json": wish}, {"json": {**wish, "name": "other"}})


def _move(verb: str, task: Callable[[Rig], Awaitable[str]]) -> Callable[[Rig], Awaitable[Sent]]:
    async def sent(studio: Rig) -> Sent:
        return Sent(f"/api/v1/tasks/{await task(studio)}/{verb}", {}, {"json": {"other": 1}})

    return sent


def _labelling(verb: str, said: dict[str, Any], other: dict[str, Any]) -> Callable[[Rig], Awaitable[Sent]]:
    """A labelling in which the first record was handed out, written and not yet exported."""

    async def sent(studio: Rig) -> Sent:
        name = new_id("review").replace("_", "-")
        wish = {"name": name, "dataset": await dataset(studio, name, talks(1)), "mode": "write"}
        if not verb:
            return Sent(LABELLINGS, {"json": wish}, {"json": {**wish, "name": f"other-{name}"}})
        async with studio.http() as http:
            await http.post(LABELLINGS, json=wish)
            await http.post(f"{LABELLINGS}/{name}/next")
            await http.post(f"{LABELLINGS}/{name}/records/0/verdict", json={"text": "written"})
        return Sent(f"{LABELLINGS}/{name}/{verb}", said, other)

    return sent


def _plain(path: str, said: dict[str, Any], other: dict[str, Any]) -> Callable[[Rig], Awaitable[Sent]]:
    async def sent(_: Rig) -> Sent:
        return Sent(path, said, other)

    return sent


def _json(path: str, said: dict[str, Any], other: dict[str, Any]) -> Callable[[Rig], Awaitable[Sent]]:
    return _plain(path, {"json": said}, {"json": other})


async def _event(studio: Rig) -> Sent:
    data = (await tuning(studio)).said["json"]
    event = {"specversion": "1.0", "id": "n1", "source": "w", "type": "io.finery.task.requested.v1", "data": data}
    headers = {"content-type": "application/cloudevents+json"}
    other = {"json": {**event, "id": "n2"}, "headers": headers}
    return Sent("/api/v1/inbound", {"json": event, "headers": headers}, other)


SINCE, SINCE_LATER = {"since": WHEN}, {"since": LATER}
POOL = {"name": "mine", "flavours": {"cpu": 1}}
HOOK = {"topic": "jobs", "url": "https://example.com/hook"}
MODEL = {"name": "mine", "source": {"gallery": GALLERY_MODEL}}
OTHER, EXPORT = {"json": {"other": 1}}, {"json": {"name": "answers"}}
GRANT = {"action": "read", "resource": "s3://data/train"}
STORE = {
    "kind": "s3", "name": "lake", "endpoint": "https://93.184.215.14", "access_key": "AKIA", "secret_key": "s3cr3t-k3y",
}  # fmt: skip
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
SENT: dict[str, Callable[[Rig], Awaitable[Sent]]] = {
    "/api/v1/projects": _json("/api/v1/projects", {"name": "shop"}, {"name": "other"}),
    "/api/v1/keys": _json("/api/v1/keys", {"description": "a"}, {"description": "b"}),
    "/api/v1/datasets": _plain("/api/v1/datasets", {"files": FILE}, {"files": OTHER_FILE}),
    "/v1/files": _plain(
        "/v1/files", {"files": FILE, "data": {"purpose": "fine-tune"}}, {"files": FILE, "data": {"purpose": "evals"}}
    ),
    LABELLINGS: _labelling("", {}, {}),
    "/api/v1/labellings/{ref}/next": _labelling("next", {}, OTHER),
    "/api/v1/labellings/{ref}/close": _labelling("close", {}, OTHER),
    "/api/v1/labellings/{ref}/assignments": _labelling(
        "assignments", {"json": {"user": "mia"}}, {"json": {"user": "tom"}}
    ),
    "/api/v1/labellings/{ref}/records/{record}/verdict": _labelling(
        "records/0/verdict", {"json": {"text": "one"}}, {"json": {"text": "two"}}
    ),
    "/api/v1/labellings/{ref}/export": _labelling("export", EXPORT, {"json": {"name": "others"}}),
    "/api/v1/grants": _json("/api/v1/grants", GRANT, {**GRANT, "days": 1}),
    "/api/v1/connections": _json("/api/v1/connections", STORE, {**STORE, "name": "other"}),
    "/api/v1/uploads": _plain(
        "/api/v1/uploads",
        {"headers": {**TUS, "upload-length": "3"}, "content": b"abc"},
        {"headers": {**TUS, "upload-length": "3"}, "content": b"abd"},
    ),
    "/api/v1/models": _json("/api/v1/models", MODEL, {**MODEL, "name": "other"}),
    "/api/v1/models/{ref}/publish": _published,
    "/api/v1/models/{ref}/current": _former,
    "/api/v1/models/{ref}/restore": _deleted_model,
    "/api/v1/models/import-bundle": _bundle,
    "/api/v1/models/{ref}/repairs": _proposed,
    "/api/v1/datasets/{ref}/restore": _deleted_dataset,
    "/api/v1/datasets/{ref}/withdraw": _withdrawing,
    "/api/v1/tasks": tuning,
    "/api/v1/tasks/{task_id}/terminate": _move("terminate", some_task),
    "/api/v1/tasks/{task_id}/pause": _move("pause", some_task),
    "/api/v1/tasks/{task_id}/resume": _move("resume", _paused),
    "/api/v1/tasks/{task_id}/copy": _move("copy", some_task),
    "/api/v1/inbound": _event,
    "/v1/fine_tuning/jobs": _job,
    "/v1/fine_tuning/jobs/{job_id}/cancel": _cancel,
    "/api/v1/deployments": _deploy,
    "/api/v1/deployments/{ref}/start": _plain("/api/v1/deployments/chat/start", {}, {"json": {"other": 1}}),
    "/api/v1/deployments/{ref}/stop": _plain("/api/v1/deployments/chat/stop", {}, {"json": {"other": 1}}),
    "/api/v1/bus/rebuild": _plain("/api/v1/bus/rebuild", {}, {"json": {"other": 1}}),
    "/api/v1/dead/{number}/replay": _plain("/api/v1/dead/7/replay", {}, {"json": {"other": 1}}),
    "/api/v1/topics": _json("/api/v1/topics", {"name": "jobs"}, {"name": "other"}),
    "/api/v1/pools": _json("/api/v1/pools", POOL, {**POOL, "name": "other"}),
    "/api/v1/subscriptions": _json("/api/v1/subscriptions", HOOK, {**HOOK, "description": "other"}),
    "/api/v1/subscriptions/{ref}/enable": _plain("/api/v1/subscriptions/sub_1/enable", {}, {"json": {"other": 1}}),
    "/api/v1/subscriptions/{ref}/rotate": _json("/api/v1/subscriptions/sub_1/rotate", {}, {"overlap_s": 60}),
    "/api/v1/subscriptions/{ref}/redeliver": _json("/api/v1/subscriptions/sub_1/redeliver", SINCE, SINCE_LATER),
    "/api/v1/subscriptions/{ref}/backfill": _json("/api/v1/subscriptions/sub_1/backfill", SINCE, SINCE_LATER),
    "/api/v1/budgets": _json("/api/v1/budgets", {"name": "month", "limit": 100}, {"name": "month", "limit": 200}),
    "/api/v1/packages": _json("/api/v1/packages", {"offer": "year"}, {"offer": "other"}),
    "/api/v1/estimates": _json("/api/v1/estimates", {"seconds": 60}, {"seconds": 90}),
    "/api/v1/deliveries/{ref}/redeliver": _plain("/api/v1/deliveries/dlv_1/redeliver", {}, {"json": {"other": 1}}),
}


def under(key: str) -> dict[str, str]:
    return {KEY_HEADER: key}
