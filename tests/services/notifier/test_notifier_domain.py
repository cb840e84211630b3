"""Who hears what, and what becomes of a delivery: pure decisions."""

from datetime import UTC, datetime, timedelta

import pytest

from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.notifications import SubscriptionState
from finery_contracts.tasks import NotifyChoice
from finery_kit.settings import SettingsError, load
from finery_notifier import domain
from finery_notifier.domain import Outcome, Purpose, Settled
from finery_notifier.settings import STANDARD_SCHEDULE_S, NotifierSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FACTS = frozenset({"task.succeeded", "task.failed", "model.ready"})


@pytest.mark.parametrize(
    ("patterns", "fact", "heard"),
    [
        ([], "task.succeeded", True),
        (["succeeded"], "task.succeeded", True),
        (["task.succeeded"], "task.succeeded", True),
        (["task.*"], "task.succeeded", True),
        (["failed", "task.running"], "task.succeeded", False),
        (["deployment.*"], "task.succeeded", False),
        (["task"], "task.succeeded", False),
        (["task.succ"], "task.succeeded", False),
    ],
)
def test_a_filter_means_what_it_names(patterns: list[str], fact: str, heard: bool):
    assert domain.hears(patterns, fact) is heard


def test_a_fact_goes_to_the_chosen_topic_and_to_the_one_that_hears_all():
    assert domain.topics_of("task.failed", NotifyChoice(topic="ops", events=["failed"])) == {"ops", "all"}
    assert domain.topics_of("task.failed", NotifyChoice(topic="ops", events=["succeeded"])) == {"all"}
    assert domain.topics_of("model.ready", None) == {"all"}


@pytest.mark.parametrize("pattern", ["task.succeded", "tusk.*", "*", "", "task.", "model.succeeded", "x" * 5000])
def test_a_filter_that_can_never_match_is_refused(pattern: str):
    with pytest.raises(InvalidRequest, match=r"choose from: model\.\*, task\.\*, model\.ready") as refused:
        domain.check_patterns(["task.*", pattern], FACTS)

    assert refused.value.error_code == "unknown_event"


@pytest.mark.parametrize(
    ("outcome", "attempts", "settled"),
    [
        (Outcome(status=204), 1, ("delivered", 0)),
        (Outcome(status=500), 1, ("waiting", 5)),
        (Outcome(status=500), 2, ("waiting", 300)),
        (Outcome(status=500), 3, ("dead", 0)),
        (Outcome(status=302), 1, ("waiting", 5)),
        (Outcome(status=410), 1, ("dead", 0)),
        (Outcome(error="cannot connect"), 1, ("waiting", 5)),
        (Outcome(status=503, retry_after_s=60), 1, ("waiting", 60)),
        (Outcome(status=503, retry_after_s=1), 1, ("waiting", 5)),
        (Outcome(status=503, retry_after_s=10**9), 1, ("waiting", 86_400)),
        (Outcome(status=405, agreed=True), 1, ("delivered", 0)),
    ],
)
def test_an_attempt_is_settled_by_its_outcome(outcome: Outcome, attempts: int, settled: tuple[str, int]):
    state, wait_s = settled

    found = domain.settle(outcome, attempts=attempts, schedule_s=(5, 300), now=NOW)

    assert found == Settled(state, NOW + timedelta(seconds=wait_s), found.error)
    assert (found.error is None) == (state == "delivered")


def test_jitter_lengthens_a_wait_by_a_tenth_at_most():
    found = domain.settle(Outcome(status=500), attempts=1, schedule_s=(100,), now=NOW, jitter=1.0)

    assert found.due_at == NOW + timedelta(seconds=110)


def test_the_standard_schedule_lasts_three_days():
    assert 3 * 86_400 < sum(STANDARD_SCHEDULE_S) < 3.5 * 86_400


@pytest.mark.parametrize("state", list(SubscriptionState))
def test_facts_go_to_confirmed_endpoints_only_and_the_question_to_pending_ones_only(state: SubscriptionState):
    fact = domain.refusal(Purpose.FACT, state, confirm_until=NOW, now=NOW)
    question = domain.refusal(Purpose.CONFIRMATION, state, confirm_until=NOW, now=NOW)

    assert (fact is None) == (state is SubscriptionState.CONFIRMED)
    assert (question is None) == (state is SubscriptionState.PENDING)


def test_a_move_that_is_not_in_the_table_names_both_states():
    with pytest.raises(Conflict, match="unsubscribed cannot become confirmed"):
        domain.move(SubscriptionState.UNSUBSCRIBED, SubscriptionState.CONFIRMED)


def test_settings_are_lists_with_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FINERY_NOTIFIER_ALLOW_NETWORKS", "127.0.0.0/8, fd00::/8")
    monkeypatch.setenv("FINERY_NOTIFIER_RETRY_SCHEDULE_S", "0.1,2")
    monkeypatch.setenv("FINERY_PUBLIC_URL", "https://finery.example/")

    settings = load(NotifierSettings)

    assert [str(network) for network in settings.notifier_allow_networks] == ["127.0.0.0/8", "fd00::/8"]
    assert settings.notifier_retry_schedule_s == (0.1, 2.0)
    assert settings.public_url == "https://finery.example"


@pytest.mark.parametrize(
    ("name", "value"),
    [("NOTIFIER_ALLOW_NETWORKS", "10.0.0.0/99"), ("NOTIFIER_RETRY_SCHEDULE_S", "5,soon"), ("PUBLIC_URL", "ftp://x")],
)
def test_a_bad_setting_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"FINERY_{name}", value)

    with pytest.raises(SettingsError, match=f"FINERY_{name}"):
        load(NotifierSettings)
