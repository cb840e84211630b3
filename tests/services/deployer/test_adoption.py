"""A deployer that comes and goes: instances outlive it, are adopted again, and are billed once."""

from __future__ import annotations

import os
import signal

from deployer_bench import Bench

from finery_contracts.deployments import DeploymentInstanceEnded, DeploymentState

State = DeploymentState


async def test_an_instance_outlives_its_deployer_and_is_adopted(bench: Bench):
    # given
    async with bench.deployer():
        view = await bench.deploy(bench.model())
        before = await bench.until_route(view.id, State.RUNNING)

    # when
    assert bench.children[0].process.poll() is None
    async with bench.deployer() as service:
        seen = await bench.command("get", view.id)
        await bench.command("stop", view.id)
        await bench.until(view.id, State.STOPPED)
        facts = await bench.facts(service)

    # then
    assert seen.state is State.RUNNING
    assert seen.version == before.revision
    assert len(bench.children) == 1
    intervals = [fact.data.interval for fact in facts if isinstance(fact, DeploymentInstanceEnded)]
    assert len(intervals) == 1
    assert intervals[0].running_s > 0


async def test_an_instance_that_died_while_the_deployer_was_away_is_counted_once_and_replaced(bench: Bench):
    # given
    async with bench.deployer():
        view = await bench.deploy(bench.model())
        running = await bench.until(view.id, State.RUNNING)
    os.killpg(bench.children[0].pid, signal.SIGKILL)
    bench.children[0].process.wait()

    # when
    async with bench.deployer() as service:
        await bench.until(view.id, State.RUNNING, lambda seen: seen.version > running.version)
        facts = await bench.facts(service)

    # then
    ended = [fact for fact in facts if isinstance(fact, DeploymentInstanceEnded)]
    assert len(ended) == 1
    assert ended[0].data.interval.running_s > 0, "what had run when the deployer left was written down"
    assert len(bench.children) == 2


async def test_a_pid_that_was_given_to_a_stranger_is_neither_adopted_nor_signalled(bench: Bench):
    # given
    async with bench.deployer() as service:
        view = await bench.deploy(bench.model())
        running = await bench.until(view.id, State.RUNNING)
        (instance,) = await bench.instances(service)
        assert service.database is not None
        instance.born = "another-boot 12.00"
        await service.database.write(lambda tx: tx.session.add(tx.session.merge(instance)))

        # when
        await bench.until(view.id, State.RUNNING, lambda seen: seen.version > running.version)

    # then: the process lives, it is only not ours any more
    assert bench.children[0].process.poll() is None
    assert len(bench.children) == 2


async def test_an_embedded_deployer_stops_its_instances_and_starts_them_again(bench: Bench):
    # given
    async with bench.deployer(deployer_stop_instances_on_exit=True):
        view = await bench.deploy(bench.model())
        trial = await bench.wake(bench.model("t"))
        await bench.until(view.id, State.RUNNING)
        await bench.until(trial.id, State.RUNNING)

    # then
    assert [await child.wait() for child in bench.children] == [0, 0]
    facts = await bench.facts_at_rest()
    assert len([fact for fact in facts if isinstance(fact, DeploymentInstanceEnded)]) == 2

    # when
    async with bench.deployer(deployer_stop_instances_on_exit=True):
        await bench.until(view.id, State.RUNNING)
        assert (await bench.command("get", trial.id)).state is State.STOPPED


async def test_routes_are_told_again_after_the_bus_lost_them(bench: Bench):
    # given
    async with bench.deployer():
        view = await bench.deploy(bench.model())
        route = await bench.until_route(view.id, State.RUNNING)
    await bench.client.jetstream().purge_stream("KV_routes")

    # when
    async with bench.deployer():
        again = await bench.until_route(view.id, State.RUNNING)

    # then
    assert again == route
