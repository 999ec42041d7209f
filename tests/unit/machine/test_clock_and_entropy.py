"""What the clocks and the sources of randomness promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest
import trio
import trio.testing

from meshd.machine.clock import SystemClock
from meshd.machine.entropy import SystemEntropy
from meshd.testing.clock import SimClock
from meshd.testing.entropy import SeededEntropy


async def test_the_clock_is_on_trios_own_timeline() -> None:
    clock = SystemClock()
    before = trio.current_time()
    assert before <= clock.monotonic() <= trio.current_time()


async def test_the_wall_clock_is_the_systems() -> None:
    before = time.time()
    assert before <= SystemClock().wall() <= time.time()


def suspended_by(command: list[str]) -> float:
    code = "from meshd.machine.clock import SystemClock; print(SystemClock().suspended_s())"
    done = subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    if done.returncode and command:
        pytest.skip(f"clocks cannot be moved apart here: {done.stderr.strip()}")
    return float(done.stdout)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_time_spent_asleep_is_what_the_clocks_are_apart() -> None:
    asleep = suspended_by(["unshare", "--time", "--boottime", "100000", "--fork"])
    assert asleep - suspended_by([]) == pytest.approx(100_000, abs=60)


async def test_a_simulated_clock_runs_with_virtual_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = SimClock(wall_unix_s=1000.0, skew_s=5.0)
    start = clock.monotonic()
    wall = clock.wall()
    await trio.sleep(60)
    assert clock.monotonic() - start == 60
    assert clock.wall() - wall == 60
    clock.jump_wall(-3600)
    assert clock.wall() - wall == 60 - 3600
    assert clock.suspended_s() == 0
    clock.wake_after(600)
    assert clock.suspended_s() == 600
    assert clock.wall() - wall == 60 - 3600 + 600
    assert clock.monotonic() - start == 60


def test_a_seed_repeats_everything_and_another_does_not() -> None:
    def draw(seed: int | str) -> list[object]:
        entropy = SeededEntropy(seed)
        return [entropy.token(16), entropy.random(), entropy.randrange(1 << 30)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw("1/disk") != draw("1/net")


def test_real_randomness_is_in_range_and_does_not_repeat() -> None:
    entropy = SystemEntropy()
    assert len(entropy.token(32)) == 32
    assert entropy.token(32) != SystemEntropy().token(32)
    assert 0 <= entropy.random() < 1
    assert {entropy.randrange(3) for _ in range(200)} == {0, 1, 2}
    assert SystemEntropy().random() != SystemEntropy().random()
