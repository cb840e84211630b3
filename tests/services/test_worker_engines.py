"""What worker services offer: kinds with programs that are there; settings that cannot work stop the start."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from finery_contracts.jobs import TaskKind
from finery_kit.settings import Settings, SettingsError, load

KINDS = {
    "dataset_ingest": {TaskKind.INGEST, TaskKind.PREPARE, TaskKind.COUNT},
    "weight_validator": {TaskKind.IMPORT, TaskKind.VALIDATE, TaskKind.MERGE},
    "trainer": {TaskKind.TUNE},
    "evaluator": {TaskKind.EVALUATE, TaskKind.JUDGE},
}


def app_of(service: str) -> ModuleType:
    return import_module(f"finery_{service}.app")


def settings_of(service: str) -> type[Settings]:
    name = "".join(part.title() for part in service.split("_")) + "Settings"
    return getattr(import_module(f"finery_{service}.settings"), name)


@pytest.mark.parametrize("service", KINDS)
def test_every_kind_has_a_program_that_is_there(service: str) -> None:
    engines = app_of(service).ENGINES
    assert engines.keys() == KINDS[service]
    for engine in engines.values():
        spec = find_spec(engine.module)
        assert spec is not None, engine.module
        assert "def main(" in Path(str(spec.origin)).read_text()


@pytest.mark.parametrize("service", KINDS)
async def test_a_worker_is_built_without_touching_its_home(service: str, tmp_path: Path) -> None:
    app = app_of(service)
    built = app.build(load(settings_of(service), home=tmp_path / "home", store_root=tmp_path / "store"))
    assert built.name == app.NAME
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("service", KINDS)
@pytest.mark.parametrize("slots", ["0", "65", "many", "-1"])
def test_a_number_of_slots_that_cannot_be_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, service: str, slots: str
) -> None:
    variable = f"FINERY_{service.upper()}_SLOTS"
    monkeypatch.setenv(variable, slots)
    with pytest.raises(SettingsError, match=variable):
        load(settings_of(service))
