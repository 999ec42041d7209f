"""What a follower does with entries.  Pure.

Hazard H1: stock moves its commit index up to its own last entry on any word of a leader that names
no place in the log (heartbeats, parts of a snapshot), and so commits entries that nobody compared.
Hazard H4: stock cuts everything after the place that a message names, also what is equal, so that
an old or repeated message takes back what was acknowledged.
Hazard H17 (this half): stock's refusal says "one less", a round trip for each entry.

Here a message is compared with the log first.  What is equal stays, only a conflict is cut, commit
goes no further than what was compared, and a refusal says where a match may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshd.consensus.interface import CoreStopped, Nonsense, OtherRecord
from meshd.consensus.kernel_log import Row
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import AppendAnswer, AppendEntries, Feed

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class Receiving:
    """The follower's half of replication."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.nothing_conflicts = False
        """While stock handles a message whose new entries only follow what is there."""
        self._round = 0
        self._verified = 0
        """How far the log is known to equal that of the leader whose message is being handled."""
        self._prev = 0

    def on_append(self, peer: Peer, message: AppendEntries) -> None:
        """AppendEntries, heartbeats too.  Raises Nonsense before anything is changed."""
        kernel, log = self._kernel, self._kernel.log
        if message.term < kernel.stock.term:
            self.refuse_old_leader(peer)
            return
        self.require_the_leader(peer, message.term)
        fits, prev_index, prev_term, rows = log.compare(
            message.prev_index, message.prev_term, rows_of(message)
        )
        self._require_no_harm(prev_index, fits, rows)

        self._round, self._prev = message.round, prev_index
        self._verified = rows[-1][1] if rows else prev_index
        self.nothing_conflicts = not rows or rows[0][1] > log.last.index
        try:
            self._hand_to_stock(peer, message.term, min(message.commit, self._verified), {
                "entries": rows, "prevLogIdx": prev_index, "prevLogTerm": prev_term,
            })  # fmt: skip
        finally:
            self.nothing_conflicts = False

    def on_leader_word(self, peer: Peer, term: int, round_: int) -> None:
        """A word of the leader that names no place in the log: it leads, and nothing else (H1)."""
        self.require_the_leader(peer, term)
        self._round = round_
        self._hand_to_stock(peer, term, self._kernel.stock.commit, {})

    def answer(self, peer: Peer, fits: bool) -> None:
        """Stock has decided.  `fits`: the log equals the leader's up to what was compared."""
        kernel = self._kernel
        kernel.wire.tell(
            peer.id,
            AppendAnswer(
                term=kernel.stock.term,
                round=self._round,
                ok=fits,
                index=self._verified if fits else self._may_match(self._prev),
                rejected=0 if fits else self._prev,
            ),
        )

    def installed(self, peer: Peer, round_: int) -> None:
        """The log equals the leader's up to what is committed here: a snapshot is, too.

        Never up to the end of the log: what follows the snapshot was not compared.
        """
        kernel = self._kernel
        kernel.wire.tell(
            peer.id,
            AppendAnswer(
                term=kernel.stock.term, round=round_, ok=True, index=kernel.stock.commit, rejected=0
            ),
        )

    def installed_now(self, peer: Peer) -> None:
        """The same without being asked: building the state took a while."""
        self.installed(peer, self._round)

    def refuse_old_leader(self, peer: Peer) -> None:
        """Say the later term.  Stock is silent; with pre-vote, a node that has a later term and
        cannot win would then never be followed, nor follow.

        It answers no round: the same node may lead in this term, and count rounds anew.
        """
        self._kernel.wire.tell(
            peer.id,
            AppendAnswer(term=self._kernel.stock.term, round=0, ok=False, index=0, rejected=0),
        )

    def require_the_leader(self, peer: Peer, term: int) -> None:
        """Raise Nonsense if another leads in this term."""
        stock = self._kernel.stock
        is_known = stock.leader is not None and stock.leader != self._kernel.following.source
        if term == stock.term and (stock.role == LEADER or (is_known and stock.leader != peer)):
            raise Nonsense(f"{peer.id} says that it leads in term {term}, but {stock.leader} does.")

    def _require_no_harm(self, prev_index: int, fits: bool, rows: list[Row]) -> None:
        """What is committed here, every later leader has."""
        commit = self._kernel.stock.commit
        first = prev_index if not fits else rows[0][1] if rows else None
        if first is not None and first <= commit:
            raise OtherRecord(f"A leader differs at entry {first}, and {commit} is committed here.")

    def _hand_to_stock(self, peer: Peer, term: int, commit: int, rest: dict[str, object]) -> None:
        kernel = self._kernel
        kernel.elections.heard_leader()
        kernel.following.taught()
        kernel.stock.on_message(
            peer, {"type": "append_entries", "term": term, "commit_index": commit, **rest}
        )
        if kernel.stock.leader != peer:
            raise CoreStopped("pysyncobj did not take the leader's word.")

    def _may_match(self, rejected: int) -> int:
        """The last place before `rejected` where the logs may be equal (H17).

        If the log is shorter: its end.  Otherwise the whole run of the term that does not fit is
        skipped, since a leader with another entry there most likely has none of them.
        """
        log = self._kernel.log
        if rejected > log.last.index:
            return log.last.index
        term, index = log.term_at(rejected), rejected - 1
        while index > self._kernel.stock.commit and log.term_at(index) == term:
            index -= 1
        return index


def rows_of(message: AppendEntries | Feed) -> list[Row]:
    """Its entries as rows of a log."""
    return [
        (payload, index, term)
        for index, (term, payload) in enumerate(message.entries, message.prev_index + 1)
    ]
