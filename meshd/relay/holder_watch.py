"""When a holder that says nothing counts as gone.  Pure.

An entry watches the holder that it has asked; what a holder watches is its engine (`watchdog.py`).
Any frame is a sign of life: a holder that waits for its engine beats (`limits.BEAT_S`).
"""

from __future__ import annotations

import math

from meshd import limits


class HolderWatch:
    """Of one run.  A holder in this process is never silent."""

    __slots__ = ("_doubted", "_remote", "gone_at")

    def __init__(self, *, remote: bool) -> None:
        self.gone_at = math.inf
        """When the holder counts as gone unless heard; inf while nobody watches."""
        self._remote = remote
        self._doubted = False

    # ------------------------------------------------------------------ events

    def asked(self, now: float) -> None:
        """The request is being sent.  A large one on a slow link takes its time, and the holder
        cannot answer before it has it: the silence that counts begins when all of it is sent."""
        if self._remote:
            self.gone_at = now + limits.DIAL_S + limits.HTTP_SEND_STALL_S

    def sent(self, size_bytes: int, now: float) -> None:
        """The request is on its way: what is left of it in buffers still takes its time."""
        in_buffers = min(size_bytes, limits.SEND_BUFFER_BYTES)
        self.heard(now + in_buffers / limits.SLOW_LINK_BYTES_PER_S)

    def heard(self, now: float) -> None:
        """The holder gave a sign of life (any frame)."""
        if self._remote:
            self._doubted = False
            self.gone_at = now + limits.HOLDER_SILENT_S

    def was_deaf(self, late_s: float) -> None:
        """This process did not get to listen for so long: what arrived is still to be read."""
        self.gone_at += late_s

    def stop(self) -> None:
        """The run is over, or somebody else watches it."""
        self.gone_at = math.inf

    # ----------------------------------------------------------------- questions

    def is_gone(self, now: float) -> bool:
        """Whether it was silent for too long."""
        return now >= self.gone_at

    def doubts(self, now: float) -> bool:
        """Whether it has been silent for so long that it is time to see who else is there:
        `ROLL_CALL_S` before it counts as gone.  True once a silence."""
        doubts = not self._doubted and now >= self.gone_at - limits.ROLL_CALL_S
        self._doubted = self._doubted or doubts
        return doubts

    @property
    def wake_at(self) -> float:
        """When `doubts` or `is_gone` has something to say, if nothing is heard before."""
        return self.gone_at - (0.0 if self._doubted else limits.ROLL_CALL_S)
