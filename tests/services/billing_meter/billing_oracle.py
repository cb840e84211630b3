"""What a ledger must say, reckoned another way: whole fractions, one interval after the other, no database."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.notifications import NotificationMetered
from finery_contracts.packages import PackageView
from finery_contracts.prices import PriceList
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded

NANO = 10**9
Net = dict[tuple[str, str, int], tuple[Decimal, Decimal]]
"""(source, package, period) → (quantity, amount)."""


def expected(facts, packages: list[PackageView], prices: PriceList) -> Net:
    """The net of every key's lines, those that are nothing left out."""
    net: Net = {(f"package:{p.id}", "", -1): (Decimal(1), p.price) for p in packages if p.price}
    runs: dict[str, tuple] = {}
    for fact in facts:
        if isinstance(fact, UsageRecorded):
            net |= _tokens(fact, prices)
            continue
        if isinstance(fact, NotificationMetered):
            net |= _messages(fact, prices)
            continue
        interval = fact.data.interval
        if interval.billed and interval.running_s > 0:
            source, flavour, pool, instances = _what(fact)
            runs[source] = (
                fact.project, flavour, interval.started_at, source, Fraction(repr(interval.running_s)), instances,
                not pool.startswith("pool_"),
            )  # fmt: skip
    groups = defaultdict(list)
    for run in runs.values():
        groups[run[:2]].append(run)
    for (project, flavour), members in groups.items():
        mine = [p for p in packages if (p.project, p.flavour) == (project, flavour)]
        net |= _group(sorted(members, key=lambda run: (run[2], run[3])), mine, prices.flavours[flavour])
    return {key: value for key, value in net.items() if any(value)}


def _what(fact: TaskAttemptEnded | DeploymentInstanceEnded):
    interval = fact.data.interval
    if isinstance(fact, TaskAttemptEnded):
        task = fact.data.task
        return f"task:{task.id}:{interval.attempt}:{interval.n}", task.flavour, task.pool, task.instances
    deployment = fact.data.deployment
    return f"instance:{interval.instance}:{interval.n}", deployment.flavour, deployment.pool, 1


def _tokens(fact: UsageRecorded, prices: PriceList) -> Net:
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    firsts: dict[tuple[str, str], datetime] = {}
    for call in fact.data.calls:
        sums[call.deployment, "prompt", call.key] += call.prompt_tokens
        sums[call.deployment, "completion", call.key] += call.completion_tokens
        place = (call.deployment, call.key)
        firsts[place] = min(firsts.get(place, call.at), call.at)
    net: Net = {}
    for (deployment, kind, key), count in sums.items():
        version = [v for v in prices.tokens if v.valid_from <= firsts[deployment, key]][-1]
        price = Fraction(getattr(version, kind))
        if count and price:
            source = f"usage:{fact.data.segment}:{fact.data.offset}:{deployment}:{kind}:{key}"
            net[source, "", -1] = (Decimal(count), _nano(round(count * price * NANO)))
    return net


def _messages(fact: NotificationMetered, prices: PriceList) -> Net:
    versions = [v for v in prices.notifications.get(fact.data.channel, []) if v.valid_from <= fact.data.window_start]
    cost = fact.data.count * Fraction(versions[-1].per_message) if versions else 0
    return (
        {(f"notification:{fact.data.key}", "", -1): (Decimal(fact.data.count), _nano(round(cost * NANO)))}
        if cost
        else {}
    )


def _group(runs, packages: list[PackageView], versions) -> Net:
    left: dict[tuple[str, int], int] = {}
    net: Net = {}
    for _project, _flavour, start, source, seconds, instances, public in runs:
        exact = seconds * instances / 3600 * NANO
        price = Fraction([v for v in versions if v.valid_from <= start][-1].per_hour)
        end = start + timedelta(seconds=float(seconds))
        periods = [(p, n, a, b) for p in packages for n, a, b in _periods(p)] if public else []
        marks = sorted({m for _, _, a, b in periods for m in (a, b) if start < m < end})
        done = drawn = 0
        for begin, stop in zip([start, *marks], [*marks, None], strict=True):
            share = Fraction((stop - start) // timedelta(microseconds=1), 10**6) if stop else seconds
            upto = round(exact) if stop is None else min(round(exact), round(share * instances / 3600 * NANO))
            need, done = upto - done, upto
            valid = [(b, p.bought_at, p.id, n, p) for p, n, a, b in periods if a <= begin < b]
            for _b, _bought, name, n, p in sorted(valid, key=lambda found: found[:4]):
                take = min(need, left.setdefault((name, n), int(p.hours * NANO)))
                left[name, n] -= take
                need -= take
                drawn += take
                if take:
                    before = net.get((source, name, n), (Decimal(0), Decimal(0)))[0]
                    net[source, name, n] = (before + _nano(take), Decimal(0))
        if not drawn or drawn != round(exact):
            net[source, "", -1] = (_nano(round(exact) - drawn), _nano(round((exact - drawn) * price)))
    return net


def _periods(package: PackageView):
    """Month after month by counting days of a calendar, not by the meter's arithmetic."""
    if package.reset == "none":
        yield 0, package.starts_at, package.ends_at
        return
    begin, number = package.starts_at, 0
    while begin < package.ends_at:
        following = _same_day_next_month(package.starts_at, begin)
        yield number, begin, min(following, package.ends_at)
        begin, number = following, number + 1


def _same_day_next_month(anchor: datetime, begin: datetime) -> datetime:
    first = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
    last = ((first + timedelta(days=32)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(anchor.day, last))


def _nano(count: int) -> Decimal:
    return Decimal(count) / NANO
