"""Whether this machine let the harness run when it had something to do.

The harness is the network of its mesh: while it waits for a core, every link stands still at once,
which no fault was meant to do.
"""

from __future__ import annotations

from typing import Final

import trio

LOOK_S: Final = 0.05
STALL_S: Final = 0.3
"""A peer is taken for gone after 1.5 s without a beat, a leader after 0.8 s: a few waits in a row
come near that, since each way through the mesh needs several processes to run."""


class Stalls:
    """How long the harness was kept waiting."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Look, until cancelled."""
        while True:
            due_at = trio.current_time() + LOOK_S
            await trio.sleep_until(due_at)
            self.saw(trio.current_time() - due_at)

    def saw(self, late_s: float) -> None:
        """It ran so much later than it wanted to."""
        if late_s >= STALL_S:
            self.count += 1
            self.longest_s = max(self.longest_s, late_s)

    @property
    def note(self) -> str:
        """What a reader of the results should know, as a sentence; "": nothing."""
        if not self.count:
            return ""
        times = "once" if self.count == 1 else f"{self.count} times"
        return (
            f"this machine was too busy: it kept the harness, which is the mesh's network, waiting "
            f"{times} for {STALL_S:g} s or more, {self.longest_s:.1f} s at worst; gaps, elections "
            "and failures may be its doing"
        )
