"""Settings from the environment: lists as people write them, and a bad one named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from finery_kit.settings import Networks, Paths, Settings, SettingsError, Texts, load


class Knobs(Settings):
    flavours: Texts = Field(default_factory=lambda: ["cpu"])
    roots: Paths = Field(default_factory=list[Path])
    networks: Networks = ()
    prices: list[int] = Field(default_factory=list[int])


@pytest.mark.parametrize("written", ["/data,/more", ' ["/data", "/more"]', "/data , /more,"])
def test_a_list_has_commas_or_is_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("FINERY_ROOTS", written)
    assert load(Knobs).roots == [Path("/data"), Path("/more")]


@pytest.mark.parametrize(
    ("variable", "written"),
    [("FLAVOURS", '["cpu"'), ("NETWORKS", "10.0.0.0/33"), ("PRICES", "1,2"), ("ROOTS", "[1]")],
)
def test_a_bad_one_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, written: str) -> None:
    monkeypatch.setenv(f"FINERY_{variable}", written)
    with pytest.raises(SettingsError, match=f"(?i){variable}") as caught:
        load(Knobs)
    assert "the configuration is not valid" in str(caught.value)
