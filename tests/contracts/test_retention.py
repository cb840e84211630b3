"""How long things are kept: the shipped policy, an operator's, and what streams become of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finery_contracts.registry import EVENTS as KINDS
from finery_contracts.render import heard_by
from finery_contracts.retention import Retention
from finery_contracts.streams import DAY_S, DEAD, EVENTS, LOGS, METRICS, STREAMS, Durable, kept_by
from finery_kit.settings import Settings, SettingsError


def test_the_file_that_is_shipped_says_what_the_code_does_without_one(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).retention == Retention()


def test_an_operator_changes_one_age_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "kept.yaml"
    file.write_text("logs_days: 7\n")

    assert Settings(home=tmp_path, retention_file=file).retention == Retention(logs_days=7)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("logs_day: 7", "logs_day"),
        ("logs_days: 0", "logs_days"),
        ("dead_days: 90", "inbox_days"),
        ("temporary_model_days: 2", "temporary_model_notice_days"),
        ("events_days: 3", "events_days"),
        ("- 1", "not valid"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_policy_that_is_wrong_stops_the_start_and_the_place_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "kept.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=named):
        _ = Settings(home=tmp_path, retention_file=file).retention


def test_streams_take_their_ages_from_the_policy() -> None:
    kept = {stream.name: stream for stream in kept_by(Retention(logs_days=3, dead_days=5, events_days=400))}

    assert [kept[name].max_age_s // DAY_S for name in (EVENTS.name, LOGS.name, METRICS.name, DEAD.name)] == [
        400, 3, 3, 5,
    ]  # fmt: skip
    assert kept[DEAD.name].duplicate_window_s == kept[DEAD.name].max_age_s
    assert kept_by(Retention()) == STREAMS


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_studio_hears_whatever_others_say_and_nothing_of_its_own(kind: type) -> None:
    assert (Durable.STUDIO in heard_by(kind)) is (kind.SAID_BY != "studio")
