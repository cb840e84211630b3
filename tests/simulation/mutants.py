"""Faults that somebody could make in a domain tomorrow, one at a time. Each is found, or the run fails.

A text that is not in its module exactly once any more stops the run: the list is mended together with the domain.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.domains import Mutant

TASKS = (
    ("fence_check_removed", " or attempt.number != news.attempt or", " or"),
    ("ended_attempt_reports_again", ' or attempt.number != news.attempt or attempt.state == "ended":',
     " or attempt.number != news.attempt:"),
    ("end_of_attempt_without_version", "version=task.version + 1, stop_reason=None", "version=task.version"),
    ("lost_is_billed", "billed=reason.billed,", "billed=reason.billed or reason is EndReason.LOST,"),
    ("one_attempt_too_many", ">= max_attempts:", "> max_attempts:"),
    ("one_attempt_too_few", ">= max_attempts:", ">= max_attempts - 1:"),
    ("waiting_and_paused_is_claimable", 'return task.phase != "paused"', "return True"),
    ("begun_and_paused_is_claimable", 'in ("waiting", "retrying")', 'in ("waiting", "retrying", "paused")'),
    ("reason_to_stop_ignored", "return _ENDS_AS[told]", "return reported"),
    ("lost_takes_the_reason_to_stop", "in (EndReason.TERMINATED, EndReason.CRASHED)",
     "in (EndReason.TERMINATED, EndReason.CRASHED, EndReason.LOST)"),
    ("weaker_reason_wins", "STRENGTH.index(why) > STRENGTH", "STRENGTH.index(why) < STRENGTH"),
    ("pause_forgotten_at_the_end", "if told is StopReason.PAUSE:\n        return", "if told is None:\n        return"),
    ("auto_stopped_is_tried_again", "or told in (StopReason.TERMINATE, StopReason.AUTO_STOP):\n        stopped",
     "or told is StopReason.TERMINATE:\n        stopped"),
    ("ended_can_be_stopped", 'if task.state.ended:\n        to = "paused"', 'if False:\n        to = "paused"'),
    ("unended_can_be_deleted", "if not task.state.ended:", "if False:"),
    ("unpaused_can_be_resumed", 'task.state.ended or task.phase != "paused":', "task.state.ended:"),
    ("checkpoints_not_merged", "known |= {", "known = {"),
    ("leaving_is_blamed", ' and not (a.error and a.error.code == "worker_left")', ""),
    ("crash_is_not_blamed", "EndReason.CRASHED, EndReason.LOST, EndReason.HUNG})", "EndReason.LOST, EndReason.HUNG})"),
    ("place_is_the_claim", "claimed_at + timedelta(seconds=preparing_s)", "claimed_at"),
    ("running_of_first_attempt_only", 'attempt.state != "running":  # of', "task.state is TaskState.PREPARING:  # of"),
    ("attempts_number_repeats", "number=len(task.attempts) + 1", "number=max(1, len(task.attempts))"),
    ("running_time_of_last_attempt_only", "sum(a.running_s for a in attempts)", "attempt.running_s"),
    ("mistake_is_tried_again", "if end.reason is EndReason.USER_MISTAKE:", "if end.reason is EndReason.PREEMPTED:"),
    ("hang_told_too_early", "> max(floor_s, factor *", "> min(floor_s, factor *"),
    ("hang_policy_ignored", 'if task.on_hang == "retry" else None', "if True else None"),
    ("outdated_deadline_stops", "if task.state.ended or left_s > TICK_S else stop", "if task.state.ended else stop"),
    ("deadline_never_stops", "if task.state.ended or left_s > TICK_S else stop", "if task.id else stop"),
    ("claim_forgets_attempts", '"attempts": [*task.attempts, attempt]', '"attempts": [attempt]'),
)  # fmt: skip
MOVES = (
    ("time_of_ended_attempts_forgotten", "total_s += attempt.running_s", "total_s = 0.0"),
    ("version_not_incremented", '"version": task.version + 1', '"version": task.version'),
    ("any_move_is_legal_by_one_more", '{"version": task.version + 1', '{"version": task.version + 2'),
)
PRICES = (
    ("newest_price", "self._versions[place - 1]", "self._versions[-1]"),
    ("oldest_price", "self._versions[place - 1]", "self._versions[0]"),
    ("price_of_the_version_before", "self._versions[place - 1]", "self._versions[max(0, place - 2)]"),
)
LEDGER = (
    ("half_up", "(twice == denominator and whole & 1)", "twice == denominator"),
    ("truncated", "return whole + 1 if twice", "return whole if twice"),
    ("charge_key_without_attempt",
     'f"task:{task.id}:{interval.attempt}:{interval.n}"', 'f"task:{task.id}:{interval.n}"'),
    ("free_is_charged", "task, interval = event.data.task, event.data.interval\n    if not interval.billed or not",
     "task, interval = event.data.task, event.data.interval\n    if not"),
    ("one_instance_is_paid", "seconds * self.instances * BILLIONTHS", "seconds * BILLIONTHS"),
    ("rounded_twice", "half_even((exact - drawn_parts * per) * price, per * price_per)",
     "half_even((half_even(exact, per) - drawn_parts) * price, price_per)"),
    ("price_at_the_end", "book.hour(task.flavour, interval.started_at)",
     "book.hour(task.flavour, interval.started_at + timedelta(seconds=interval.running_s))"),
    ("package_hours_paid_again", "(exact - drawn_parts * per) * price", "exact * price"),
)  # fmt: skip
PACKAGES = (
    ("latest_end_first", "in sorted(window for window in windows if window.start <= start < window.end):",
     "in sorted((window for window in windows if window.start <= start < window.end), reverse=True):"),
    ("used_after_its_end", "if window.start <= start < window.end):", "if window.start <= start):"),
    ("used_before_its_start", "if window.start <= start < window.end):", "if start < window.end):"),
    ("package_without_bottom", "quota[window.package] - used.get(window.key, 0)", "quota[window.package]"),
    ("who_ends_first_takes_first",
     "return interval.started_at, interval.source", "return interval.ended_at, interval.source"),
    ("dedicated_pools_covered", "is_public(interval.pool)\n        and ", ""),
    ("periods_overlap", "ends = [*starts[1:], self.ends_at]", "ends = [self.ends_at for _ in starts]"),
    ("price_recognised_too_fast", "(package.quota_parts * len(package.windows))", "package.quota_parts"),
    ("all_is_left_at_the_end", "left = package.price_parts - recognised_parts", "left = package.price_parts"),
    ("no_cut_inside_an_interval", "for moment in (window.start, window.end) if start < moment < end})",
     "for moment in (window.start, window.end) if end < moment < start})"),
)  # fmt: skip
DEADLINES = (
    ("preparing_counts", "attempt.claimed_at + timedelta(seconds=attempt.preparing_s) if", "attempt.claimed_at if"),
    ("due_again_and_again", "fired=True, told=due_at,", "told=due_at,"),
    ("older_fact_wins", "if seen.version <= known.version:\n        return known", "if False:\n        return known"),
    ("attempts_before_do_not_count", 'sum(a.running_s for a in task.attempts if a.state == "ended")', "0.0"),
    ("warned_too_early", "timedelta(seconds=min(WARN_SHARE", "timedelta(seconds=max(WARN_SHARE"),
    ("never_warned", "if self.told == due_at:\n", "if True:\n"),
    ("alarm_without_version", "live._replace(told=due_at, alarms=live.alarms + 1)", "live._replace(told=due_at)"),
    (
        "told_too_early_and_never_again",
        "fired = known.fired and seen.run == known.run and not later",
        "fired = known.fired and seen.run == known.run",
    ),
    ("rest_counts", 'attempt is not None and attempt.state == "running" and not', "attempt is not None and not"),
)
NOTIFIER = (
    ("retry_after_ignored", "max(wait_s, asked_s)", "wait_s"),
    ("retry_after_without_limit", "MAX_RETRY_AFTER_S = 86_400.0", "MAX_RETRY_AFTER_S = 8_640_000.0"),
    ("gone_is_tried_again", "return outcome.gone or outcome.status == GONE", "return outcome.gone"),
    ("jitter_out_of_range", "(1 + JITTER * jitter)", "(1 - JITTER * jitter)"),
    ("jitter_too_wide", "JITTER = 0.1\n", "JITTER = 0.5\n"),
    ("waits_shifted", "schedule_s[attempts - 1]", "schedule_s[max(0, attempts - 2)]"),
    ("given_up_too_early", "attempts > len(schedule_s)", "attempts >= len(schedule_s)"),
    ("redirect_is_delivered", "200 <= self.status < 300", "200 <= self.status < 400"),
    ("short_name_not_heard", 'in (fact, name, f"{noun}.*")', 'in (fact, f"{noun}.*")'),
    ("empty_filter_hears_nothing", "return not patterns or any(", "return any("),
    ("choice_of_events_ignored", "if notify is None or not hears(notify.events, fact):", "if notify is None:"),
    ("disabled_is_told", "return None if state is SubscriptionState.CONFIRMED else",
     "return None if state is not SubscriptionState.PENDING else"),
)  # fmt: skip
DEPLOYER = (
    ("restarted_for_ever", "return len(recent) <= limit", "return True"),
    ("one_restart_too_few", "return len(recent) <= limit", "return len(recent) < limit"),
    ("old_crashes_count", "if moment > now - timedelta(seconds=window_s)]", "if moment <= now]"),
    ("deployments_version_stays", '"version": view.version + 1', '"version": view.version'),
    ("running_deployment_deleted",
     "if view.state not in RESTING:\n        raise", "if view.state is None:\n        raise"),
    ("deployments_time_overwritten", "running_s=view.running_s + interval.running_s", "running_s=interval.running_s"),
    ("stopping_is_stopped_again", "view.state in RESTING or view.state is State.STOPPING:", "view.state in RESTING:"),
    ("running_is_started_again",
     "if view.state not in RESTING:\n        return", "if view.state is None:\n        return"),
)  # fmt: skip
ALL = {
    "tasks": TASKS,
    "moves": MOVES,
    "prices": PRICES,
    "ledger": LEDGER,
    "packages": PACKAGES,
    "deadlines": DEADLINES,
    "notifier": NOTIFIER,
    "deployer": DEPLOYER,
}


def mutants() -> Iterator[Mutant]:
    """All of them."""
    for module, faults in ALL.items():
        for name, old, new in faults:
            yield Mutant(name, module, old, new)
