"""A whole run on a mesh in memory: what is planted there is in its verdict, named."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from trio.testing import MockClock

from meshd_chaos.records import Run
from meshd_chaos.run import Runner
from meshd_chaos.scenario import Expect, Scenario
from meshd_chaos.workload import Mix, ModeName
from tests.unit.chaos.made_up_mesh import Mesh


async def run(mesh: Mesh, mode: ModeName) -> Run:
    """Some ten requests of one kind, and no fault."""
    mix = Mix(modes={mode: 1}, dialects={"openai": 1}, keyed_streamed=0.0, asked_again=1.0)
    scenario = Scenario(name="calm", about="Nothing.", workload=mix, expect=Expect(faults=0))
    transport = httpx.MockTransport(mesh.answer)
    runner = Runner(scenario, mesh, seed=7, rate_per_s=2.0, duration_s=5.0, transport=transport)
    return await runner.run()


@pytest.mark.parametrize("mode", ["whole", "keyed", "queued"])
async def test_a_mesh_that_is_well_passes(mode: ModeName, autojump_clock: MockClock) -> None:
    done = await run(Mesh(), mode)
    assert done.ok, done.violations
    assert done.healed_at_s is not None
    anew = [one.request for one in done.answers if one.sent_at_s >= done.healed_at_s]
    assert anew == ["after-anna-poet", "after-ben-poet"]
    jobs = {one.request for one in done.answers if one.mode == "queued"}
    looks = [one for one in done.operations if one.client.startswith("after at ")]
    assert len(looks) == 2 * len(jobs), "each node is asked what became of each job"


@pytest.mark.parametrize(
    ("mode", "plant", "told"),
    [
        ("queued", lambda m: m.states.update(anna="queued", ben="queued"),
         "unfinished: key chaos-7-r0 was accepted, and is not answered; 30.0 s after the heal"),
        ("keyed", lambda m: m.status.update(anna=503, ben=503),
         "unfinished: key chaos-7-r0 was asked for again and again, and is not answered"),
        ("queued", lambda m: m.status.update(anna=503, ben=503),
         "unfinished: key chaos-7-r0 was asked for again and again, and is not answered"),
        ("queued", lambda m: m.status.update(anna=503),
         "unavailable: request after-anna-poet, sent 0.0 s after the heal"),
        ("queued", lambda m: m.said.update(ben=" one"), "lost: the answer to after-ben-poet"),
        ("queued", lambda m: m.said.update(ben=" one"), "doubled: job j1: has ended in 2 ways"),
        ("queued", lambda m: m.said.update(ben=" one"),
         "not linearizable: job j1: no order of these operations explains"),
        ("whole", lambda m: m.raw.update(ben=b"<html>"),
         "wrong: the answer to after-ben-poet: ben sent what is no event: "),
        ("keyed", lambda m: m.raw.update(anna=b"{}", ben=b'{"choices": 5}'),
         "unfinished: key chaos-7-r0 was accepted, and is not answered"),
        ("queued", lambda m: m.raw.update(anna=b"{}"), "anna sent what is no event: "),
        ("queued", lambda m: m.states.update(ben="gone"),
         "not linearizable: job j1: no order of these operations explains"),
        ("queued", lambda m: m.states.update(ben="queued"),
         "not linearizable: job j1: no order of these operations explains"),
        ("queued", lambda m: m.status.update(anna=503), "unavailable: read, begun 0.0 s after"),
        ("keyed", lambda m: m.said.update(ben=" one"),
         "not linearizable: key chaos-7-r0: no order of these operations explains"),
    ],
)  # fmt: skip
async def test_what_does_not_work_after_the_heal_is_named(
    mode: ModeName, plant: Callable[[Mesh], object], told: str, autojump_clock: MockClock
) -> None:
    mesh = Mesh()
    plant(mesh)
    done = await run(mesh, mode)
    assert any(told in violation for violation in done.violations), done.violations
