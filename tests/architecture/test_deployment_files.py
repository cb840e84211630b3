"""Compose file, Kubernetes base and Dockerfile name every service as `finery run` does. No container is started."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from python_sources import ROOT, SERVICES

from finery_contracts.permissions import INIT, grants
from finery_kit.nats_config import password_variable, shared_config

BASE = ROOT / "k8s" / "base"
NAMES = [folder.name for folder in SERVICES]
STARTS_ENGINES = {"dataset-ingest", "deployer", "evaluator", "trainer", "weight-validator"}
MANIFESTS = sorted(path for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")


def _manifests() -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in MANIFESTS))


def _containers() -> list[dict[str, Any]]:
    pods = [manifest["spec"]["template"]["spec"] for manifest in _manifests() if manifest["kind"] == "Deployment"]
    return [container for pod in pods for container in pod["containers"]]


def _compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_what_kubernetes_requires(path: Any) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata"} <= manifest.keys()
        assert manifest["metadata"]["name"]
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_kustomization_lists_every_manifest() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]

    assert sorted(listed) == [path.name for path in MANIFESTS]


@pytest.mark.parametrize("service", NAMES)
def test_each_service_has_its_manifest_and_runs_by_its_name(service: str) -> None:
    running = [container for container in _containers() if container["args"] == ["run", service]]

    assert (BASE / f"{service}.yaml").is_file()
    assert len(running) == 1
    assert running[0]["name"] == service
    assert running[0]["image"] == ("finery-ml" if service in STARTS_ENGINES else "finery")


def test_a_volume_that_is_mounted_is_declared() -> None:
    for manifest in _manifests():
        if manifest["kind"] != "Deployment":
            continue
        pod = manifest["spec"]["template"]["spec"]
        declared = {volume["name"] for volume in pod["volumes"]}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == declared, manifest["metadata"]["name"]


def test_a_claim_that_is_named_is_made() -> None:
    text = "\n".join(path.read_text() for path in MANIFESTS)
    made = {manifest["metadata"]["name"] for manifest in _manifests() if manifest["kind"] == "PersistentVolumeClaim"}

    assert set(re.findall(r"claimName: ([a-z-]+)", text)) == made


def test_the_services_that_keep_truth_in_a_file_are_never_two() -> None:
    for manifest in _manifests():
        if manifest["kind"] == "Deployment" and manifest["metadata"]["name"] in ("studio", "deployer", "notifier"):
            assert manifest["spec"]["replicas"] == 1
            assert manifest["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("service", NAMES)
def test_compose_runs_each_service_by_its_name(service: str) -> None:
    described = _compose()["services"][service]

    assert described["command"] == ["run", service]
    assert described["image"].startswith("finery-ml:" if service in STARTS_ENGINES else "finery:")


def test_compose_declares_every_volume_it_mounts() -> None:
    compose = _compose()
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]

    assert {mount.split(":")[0] for mount in mounts} == compose["volumes"].keys()


def test_the_dockerfile_copies_what_is_there_and_builds_both_images() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for name in line.split()[:-1]]

    assert copied
    named = [*copied, *re.findall(r"--constraint (\S+)", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert set(re.findall(r" AS (\w[\w-]*)", text)) >= {"control", "ml"}


def test_the_brokers_configuration_is_what_the_table_of_permissions_says() -> None:
    assert (BASE / "nats.conf").read_text() == shared_config(), "finery bus-config > k8s/base/nats.conf"


@pytest.mark.parametrize("name", [*NAMES, "bus-init"])
def test_each_service_is_told_its_own_credential_and_no_other(name: str) -> None:
    user = INIT if name == "bus-init" else name
    described = _compose()["services"][name]["environment"]
    (container,) = (found for found in _all_containers() if found["name"] == name)
    env = {item["name"]: item for item in container["env"]}

    assert described["FINERY_NATS_URL"].startswith(f"nats://{user}:${{{password_variable(user)}:?")
    assert [key for key in described if key.startswith("FINERY_BUS_PASSWORD")] == []
    assert env["FINERY_BUS_PASSWORD"]["valueFrom"]["secretKeyRef"]["key"] == password_variable(user)
    assert env["FINERY_NATS_URL"]["value"] == f"nats://{user}:$(FINERY_BUS_PASSWORD)@nats:4222"
    assert all(source.get("secretRef", {}).get("name") != "finery-bus" for source in container["envFrom"])


def _all_containers() -> list[dict[str, Any]]:
    pods = [found["spec"]["template"]["spec"] for found in _manifests() if found["kind"] in ("Deployment", "Job")]
    return [container for pod in pods for container in pod["containers"]]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_builds_the_base() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=True)

    generated = 1  # the broker's configuration
    assert len(list(yaml.safe_load_all(built.stdout))) == len(_manifests()) + generated


@pytest.mark.skipif(shutil.which("docker") is None, reason="no container client is here")
def test_compose_accepts_its_file() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the container client has no compose")
    checked = subprocess.run(
        ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "FINERY_INSTALLATION_SECRET": "0"}
        | {password_variable(grant.user): "x" for grant in grants()},
    )  # fmt: skip

    assert checked.returncode == 0, checked.stderr
