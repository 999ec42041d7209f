"""Who should have a vote: the leader's next step towards the right voters.  Pure.

One, three or five voters; two are worse than one (either one's loss stops both), and even numbers
exist only in passing.  A mesh of one or two machines has one voter, of three to six three, of seven
and more five.  At founding whoever answers now is taken, laptops included; later, steadier machines
take their places, one at a time, and a voter that has failed for long is replaced (DESIGN.md of
this package; Ongaro's thesis, chapter 4, for single-server changes).

The leader calls `next_step` now and then with what it knows, carries out what comes back, and
calls again.  Nothing is remembered here between the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum

import msgspec

from meshd import limits
from meshd.ids import NodeId, short


class Wish(StrEnum):
    """What was decided of a machine's vote: `voter =` in its config, or `meshd voters promote`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Standing(StrEnum):
    """What membership says of a node."""

    ALIVE = "alive"
    ASLEEP = "asleep"
    FAILED = "failed"
    GONE = "gone"
    """It left, or was removed: it does not come back."""


class Elector(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as the leader sees it now."""

    node: NodeId
    wish: Wish = Wish.AUTO
    """What its own config says."""
    order: Wish = Wish.AUTO
    """What the record says (`meshd voters promote`)."""
    is_void: bool = False
    """It lost what it had promised: it does not vote, and needs its vote taken and given anew."""
    standing: Standing = Standing.ALIVE
    away_s: float = 0.0
    """How long it has not been ALIVE."""
    answering: bool = True
    """It answered over its link just now."""
    caught_up: bool = True
    """Its log lacks nothing to speak of: as a voter it could acknowledge at once."""
    on_mains: bool = True
    """It is not a machine on its battery (a laptop on mains counts as on mains)."""
    portable: bool = False
    """It has a battery at all."""
    uptime_s: float = 0.0
    sync_s: float = 0.0
    """What making something durable costs it (p99); 0: not known."""

    @property
    def will(self) -> Wish:
        """Both together: `never` wins, its own or the record's."""
        for decided in (Wish.NEVER, Wish.ALWAYS):
            if decided in (self.wish, self.order):
                return decided
        return Wish.AUTO


class Learn(msgspec.Struct, frozen=True):
    """Begin to send the log to this node, without a vote; promote it once it has caught up."""

    node: NodeId


class Promote(msgspec.Struct, frozen=True):
    """Give it a vote."""

    node: NodeId
    why: str


class Demote(msgspec.Struct, frozen=True):
    """Take its vote."""

    node: NodeId
    why: str


class Transfer(msgspec.Struct, frozen=True):
    """Let that voter lead: this one is to lose its vote, which a leader cannot do to itself."""

    node: NodeId
    why: str


Step = Learn | Promote | Demote | Transfer


def voters_wanted(electors: int) -> int:
    """How many votes a mesh with so many machines that may have one should have."""
    if electors < 3:
        return 1
    return 3 if electors < limits.FIVE_VOTERS_FROM else 5


def next_step(
    me: NodeId,
    voters: Sequence[NodeId],
    members: Mapping[NodeId, Elector],
    *,
    since_change_s: float,
) -> Step | None:
    """What the leader `me` should do next; None if all is as it should be (or cannot be helped).

    `members` are all that are registered, `me` among them.  `since_change_s` is how long ago the
    voters were last changed: what could wait, waits for a while after a change.
    """
    return _Choice(me, list(voters), members).step(since_change_s)


class _Choice:
    """One look at the whole."""

    def __init__(self, me: NodeId, voters: list[NodeId], members: Mapping[NodeId, Elector]) -> None:
        self._me = me
        self._voters = voters
        self._members = members
        eligible = [e for e in members.values() if _eligible(e)]
        others = sorted((e for e in eligible if e.node not in voters), key=_steadiest_first)
        self._wanted = voters_wanted(len(eligible))
        self._ready = [e for e in others if e.answering and _is_ready(e)]
        self._behind = [e for e in others if e.answering and not _is_ready(e)]

    def step(self, since_change_s: float) -> Step | None:
        size = len(self._voters)
        if size % 2 == 0:
            return self._make_odd()
        if size > self._wanted:
            return self._drop(self._lost() or self._least_steady(), "fewer votes are enough")
        if size < self._wanted and (grown := self._grow()) is not None:
            return grown
        if (lost := self._lost()) is not None:
            return self._replace(lost)
        return self._steadier(hurry=since_change_s < limits.VOTER_SWAP_EVERY_S)

    def _make_odd(self) -> Step | None:
        """Finish what was begun: upwards if there is room and somebody for it, else down."""
        if len(self._voters) < self._wanted:
            if self._ready:
                return Promote(self._ready[0].node, _EVEN)
            if self._behind:
                return Learn(self._behind[0].node)
        return self._drop(self._lost() or self._silent() or self._least_steady(), _EVEN)

    def _grow(self) -> Step | None:
        """By two, one after the other, and only when both are there: no stop at an even number."""
        if len(self._ready) >= 2:
            return Promote(self._ready[0].node, f"{self._wanted} votes bear more losses")
        if len(self._ready) + len(self._behind) >= 2:
            return Learn(self._behind[0].node)
        return None

    def _replace(self, lost: NodeId) -> Step | None:
        """The new one first, so that no fewer votes count meanwhile.

        But one whose vote is void is there, and gets it back once it was taken: it is not to wait
        for a stranger.
        """
        why = self._why_lost(lost) or ""
        if self._ready:
            return Promote(self._ready[0].node, why)
        if self._is_void(lost) and self._can_spare(lost):
            return self._drop(lost, why)
        return Learn(self._behind[0].node) if self._behind else None

    def _can_spare(self, voter: NodeId) -> bool:
        """Whether a majority of the rest answers: else nothing could be written without it."""
        rest = [self._members.get(v) for v in self._voters if v != voter]
        answering = sum(1 for e in rest if e is not None and e.answering)
        return 2 * answering > len(rest)

    def _steadier(self, *, hurry: bool) -> Step | None:
        """One of the best classes takes the place of one that is not of them, when it can.

        While there is no time for that, only those whom a person has chosen do.
        """
        best = Steadiness.CHOSEN if hurry else Steadiness.STEADY
        worst = self._members[self._least_steady()]
        for better in sorted([*self._ready, *self._behind], key=_steadiest_first):
            grade = steadiness(better)
            if grade <= best and grade < steadiness(worst):
                why = f"it is steadier than {short(worst.node)}"
                return Promote(better.node, why) if _is_ready(better) else Learn(better.node)
        return None

    def _drop(self, node: NodeId, why: str) -> Step | None:
        if node != self._me:
            return Demote(node, why)
        heirs = [self._members[v] for v in self._voters if v != self._me and v in self._members]
        heirs = sorted((e for e in heirs if e.answering), key=_steadiest_first)
        return Transfer(heirs[0].node, why) if heirs else None

    # --- which of the voters

    def _lost(self) -> NodeId | None:
        """One whose vote should go to another as soon as there is one."""
        return self._worst(lambda voter: self._why_lost(voter) is not None)

    def _silent(self) -> NodeId | None:
        return self._worst(lambda voter: not self._members[voter].answering)

    def _least_steady(self) -> NodeId:
        voter = self._worst(lambda _: True)
        assert voter is not None, "there is always a voter"
        return voter

    def _worst(self, test: Callable[[NodeId], bool]) -> NodeId | None:
        """The least steady that passes the test; of those alike rather one that does not lead.

        Two that were started together, or share a machine, would each find itself a moment younger
        than the other, and hand the lead to and fro.
        """
        found = [v for v in self._voters if test(v)]
        worst = max(found, key=self._worst_last, default=None)
        if worst != self._me:
            return worst
        alike = [v for v in found if v != worst and self._is_like_me(v)]
        return max(alike, key=self._worst_last, default=worst)

    def _worst_last(self, voter: NodeId) -> tuple[float, float, NodeId]:
        return *self._rank(voter), voter

    def _is_like_me(self, voter: NodeId) -> bool:
        (grade, younger), (mine, me_younger) = self._rank(voter), self._rank(self._me)
        return grade == mine and abs(younger - me_younger) < _ALIKE_S

    def _rank(self, voter: NodeId) -> tuple[float, float]:
        known = self._members.get(voter)
        return _rank(known) if known is not None else (math.inf, 0.0)

    def _why_lost(self, voter: NodeId) -> str | None:
        elector = self._members.get(voter)
        if elector is None or elector.standing is Standing.GONE:
            return f"{short(voter)} is no member any more"
        patience_s = _PATIENCE_S.get(elector.standing)
        if patience_s is not None and elector.away_s >= patience_s:
            return f"{short(voter)} has been away for {elector.away_s / 60:.0f} min"
        if elector.will is Wish.NEVER:
            return f"{short(voter)} is set to have no vote"
        if elector.is_void:
            return f"the vote of {short(voter)} is void"
        return None

    def _is_void(self, voter: NodeId) -> bool:
        elector = self._members.get(voter)
        return elector is not None and elector.is_void


_EVEN = "an even number of votes bears no more losses than one fewer"
_ALIKE_S = 60.0
"""Of two uptimes: less says nothing about who is steadier, and more than any asking takes."""
_PATIENCE_S = {
    Standing.FAILED: limits.REPLACE_VOTER_AFTER_S,
    Standing.ASLEEP: limits.REPLACE_SLEEPER_AFTER_S,
}


class Steadiness(IntEnum):
    """How likely a machine is to be there tomorrow; lower is better."""

    CHOSEN = 0
    """Its owner said `voter = "always"`, or a person promoted it."""
    STEADY = 1
    """On mains for good, up for a day, quick to make things durable."""
    FIXED = 2
    """On mains for good."""
    PORTABLE = 3
    ON_BATTERY = 4
    UNWILLING = 5


def steadiness(elector: Elector) -> Steadiness:
    """The class of a machine; votes move only into the best two, so that they do not wander."""
    if elector.will is Wish.NEVER:
        return Steadiness.UNWILLING
    if elector.will is Wish.ALWAYS:
        return Steadiness.CHOSEN
    if not elector.on_mains:
        return Steadiness.ON_BATTERY
    if elector.portable:
        return Steadiness.PORTABLE
    quick = elector.sync_s <= limits.STEADY_SYNC_S
    return (
        Steadiness.STEADY
        if elector.uptime_s >= limits.STEADY_UPTIME_S and quick
        else Steadiness.FIXED
    )


def _eligible(elector: Elector) -> bool:
    return elector.will is not Wish.NEVER and elector.standing is not Standing.GONE


def _is_ready(elector: Elector) -> bool:
    """It could vote and acknowledge at once."""
    return elector.caught_up and not elector.is_void


def _rank(elector: Elector) -> tuple[float, float]:
    return float(steadiness(elector)), -elector.uptime_s


def _steadiest_first(elector: Elector) -> tuple[float, float, NodeId]:
    return *_rank(elector), elector.node
