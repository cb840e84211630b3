"""Bad input gets a clear, coded error at submit where it can be known at submit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.flows.conftest import ended
from tests.flows.test_main_thread import tune, upload


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_wrong_or_missing_key_is_401_everywhere(api: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/api/v1/tasks", "/api/v1/deployments"):
        wrong = await api.get(path, headers={"authorization": "Bearer fk-wrong"})
        missing = await api.get(path, headers={"authorization": ""})
        assert code_of(wrong) == (401, "invalid_api_key"), path
        assert code_of(missing) == (401, "missing_api_key"), path
    called = await api.post(
        "/v1/chat/completions", headers={"authorization": "Bearer fk-wrong"}, json={"model": "x", "messages": []}
    )
    assert code_of(called) == (401, "invalid_api_key")


async def test_an_unknown_model_is_404_in_calls_and_jobs(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    called = await api.post(
        "/v1/chat/completions", json={"model": "nope", "messages": [{"role": "user", "content": "hi"}]}
    )
    assert code_of(called) == (404, "model_not_found")
    assert code_of(await tune(api, file["id"], model="nope")) == (404, "model_not_found")


async def test_a_wrong_parameter_is_named_and_no_job_is_left(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    wrong: dict[str, dict[str, Any]] = {
        "foo": {"foo": 1},
        "hyperparameters.n_epochs": {"hyperparameters": {"n_epochs": 51}},
        "hyperparameters.n_epoch": {"hyperparameters": {"n_epoch": 1}},
        "x_finery.learning_rate": {"x_finery": {"learning_rate": 0.2}},
        "x_finery.learning_rat": {"x_finery": {"learning_rat": 0.1}},
        "suffix": {"suffix": "x" * 65},
        "method.type": {"method": {"type": "dpo"}},
        "seed": {"seed": -1},
        "metadata.k": {"metadata": {"k": "v" * 513}},
    }
    for param, said in wrong.items():
        answer = await tune(api, file["id"], **said)

        assert answer.status_code == 400, param
        named = {detail["param"] for detail in answer.json()["error"]["details"]}
        assert any(str(name).startswith(param) for name in named), (param, named)
    assert (await api.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_all_wrong_parameters_are_named_at_once(api: httpx.AsyncClient) -> None:
    file = await upload(api)

    answer = await tune(api, file["id"], foo=1, seed=-1, x_finery={"learning_rate": 0.2, "bar": 2})

    named = {detail["param"] for detail in answer.json()["error"]["details"]}
    assert {"foo", "seed", "x_finery.learning_rate", "x_finery.bar"} <= named


async def test_a_job_on_a_deleted_file_is_refused(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    await ended(api, file["x_finery"]["task"])
    assert (await api.delete(f"/v1/files/{file['id']}")).json()["deleted"] is True

    assert code_of(await tune(api, file["id"])) == (400, "file_not_found")
    assert (await api.get(f"/v1/files/{file['id']}")).status_code == 404
    assert (await api.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_a_file_that_a_waiting_job_needs_cannot_be_deleted(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    job = (await tune(api, file["id"])).json()

    answer = await api.delete(f"/v1/files/{file['id']}")

    assert code_of(answer) == (409, "in_use")
    await ended(api, job["x_finery"]["task"])


async def test_an_empty_file_or_a_wrong_purpose_is_refused(api: httpx.AsyncClient) -> None:
    empty = await api.post("/v1/files", files={"file": ("a.jsonl", b"")}, data={"purpose": "fine-tune"})
    wrong = await api.post("/v1/files", files={"file": ("a.jsonl", b"{}")}, data={"purpose": "nope"})
    assert code_of(empty) == (400, "file_empty")
    assert code_of(wrong) == (400, "invalid_purpose")
    assert (await api.get("/v1/files")).json()["data"] == []


async def test_a_folder_without_config_and_weights_or_a_single_file_is_refused_at_submit(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.json").write_bytes(b"x")
    cases = {
        str(folder): "config_missing",
        str(folder / "model.json"): "not_a_folder",
        str(tmp_path / "absent"): "path_not_found",
        "weights": "path_not_absolute",
    }
    for path, code in cases.items():
        answer = await api.post("/api/v1/models", json={"name": "mine", "source": {"path": path}})
        assert code_of(answer) == (400, code), path
    assert (await api.get("/api/v1/models")).json()["data"] == []


async def test_a_name_that_is_none_is_refused(api: httpx.AsyncClient) -> None:
    for name in ("", "1abc", "a b", "x" * 65, "ft:abc", "../x"):
        answer = await api.post("/api/v1/models", json={"name": name, "source": {"gallery": "smollm2-135m-instruct"}})
        assert code_of(answer) == (400, "name_invalid"), name


async def test_a_webhook_to_an_address_that_is_not_allowed_is_refused(api: httpx.AsyncClient) -> None:
    await api.post("/api/v1/topics", json={"name": "jobs"})
    addresses = (
        "http://10.1.2.3/h", "http://169.254.169.254/latest", "ftp://example.com/x", "http://[::ffff:10.0.0.1]/",
        "nonsense",
    )  # fmt: skip
    for url in addresses:
        answer = await api.post("/api/v1/subscriptions", json={"topic": "jobs", "url": url})

        assert answer.status_code == 400, url
        assert answer.json()["error"]["code"].startswith("url_"), url
    assert (await api.get("/api/v1/subscriptions")).json()["data"] == []


async def test_kinds_that_are_not_offered_yet_say_so(api: httpx.AsyncClient) -> None:
    for kind in ("distill", "compress"):
        assert code_of(await api.post("/api/v1/tasks", json={"kind": kind})) == (501, "not_offered_yet")


async def test_nothing_of_one_project_is_seen_from_another(api: httpx.AsyncClient) -> None:
    file = await upload(api)
    job = (await tune(api, file["id"])).json()
    task = await ended(api, job["x_finery"]["task"])
    other = (await api.post("/api/v1/projects", json={"name": "other"})).json()
    theirs = {"headers": {"authorization": f"Bearer {other['key']['secret']}"}}

    model = task["result"]["model_name"]
    for path in (
        f"/v1/files/{file['id']}", f"/v1/fine_tuning/jobs/{job['id']}", f"/api/v1/tasks/{task['id']}",
        f"/api/v1/tasks/{task['id']}/logs", f"/api/v1/tasks/{task['id']}/trace", f"/v1/models/{model}",
        f"/api/v1/models/{task['result']['model']}",
    ):  # fmt: skip
        assert (await api.get(path, **theirs)).status_code == 404, path
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/api/v1/tasks", "/api/v1/datasets", "/api/v1/models"):
        assert (await api.get(path, **theirs)).json()["data"] == [], path
    refused = await api.post(
        "/v1/fine_tuning/jobs", json={"model": "smollm2-135m-instruct", "training_file": file["id"]}, **theirs
    )
    assert refused.status_code == 400


async def test_keys_are_limited_shown_once_and_stop_working_when_revoked(api: httpx.AsyncClient) -> None:
    made = [(await api.post("/api/v1/keys", json={"description": f"k{n}"})) for n in range(5)]

    assert [answer.status_code for answer in made] == [201, 201, 201, 201, 409]
    key = made[0].json()
    assert all(shown["secret"] is None for shown in (await api.get("/api/v1/keys")).json()["data"])
    own = {"authorization": f"Bearer {key['secret']}"}
    assert (await api.get("/api/v1/me", headers=own)).status_code == 200
    await api.delete(f"/api/v1/keys/{key['id']}")
    assert (await api.get("/api/v1/me", headers=own)).status_code == 401
