"""Whether this node's journal is an earlier image of itself, and what others promised here.  Pure.

A disk that was cloned, or put back to what it was, has forgotten votes and acknowledgements that
others rely on.  No journal can tell that by itself, but those who heard them may remember.  So a
node that starts asks them (`Recall`) before its first vote or acknowledgement; what they say to it
meanwhile waits.

*What is remembered* of each node, by whoever heard it, while it runs: its latest term, the term of
its last vote for this node, and how far it said that its log equals that of the leader of a term.
All of it is on that node's disk before it is said (`interface.py`), so a journal that lacks any of
it is behind.  Beyond a restart of those who heard there is the record: each start of a node is
written there (`Started`), and a journal that knows of fewer starts is behind.

*Who is asked*: all that can be reached; a majority of the voters, this node among them, has to
answer, by the newest list of voters that any of them has; those who are missing then are waited for
a little longer.  A sole voter waits a little for whoever follows it, and goes on without an answer.

What this cannot see is in DESIGN.md.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.entries import Point, Stored
from meshd.consensus.history import Checked, History
from meshd.consensus.interface import Nonsense, NotEligible
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import (
    AppendAnswer,
    AppendEntries,
    Feed,
    Message,
    PreVote,
    Recall,
    RecallAnswer,
    VoteAnswer,
)
from meshd.consensus.replay import EMPTY, last_of
from meshd.ids import NodeId, short

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class Heard:
    """What one node has promised, as far as this one heard it."""

    __slots__ = ("index", "match_term", "term", "voted_term")

    def __init__(self) -> None:
        self.term = 0
        self.voted_term = 0
        """When it last gave this node its vote."""
        self.match_term = self.index = 0
        """Its log equals that of the leader of this term up to here."""

    def note(self, message: Message) -> None:
        """It said that."""
        kind = type(message)
        if kind is PreVote or kind is RecallAnswer:
            return  # of a term that it does not have yet; of this node's
        term: int = getattr(message, "term", 0)
        self.term = max(self.term, term)
        if isinstance(message, AppendAnswer) and message.ok:
            self._reaches(term, message.index)
        elif isinstance(message, AppendEntries):
            self._reaches(term, message.commit)  # a leader counts only what is on its own disk
        elif isinstance(message, Feed):
            self._reaches(term, message.prev_index + len(message.entries))
        elif isinstance(message, VoteAnswer) and message.granted:
            self.voted_term = max(self.voted_term, term)

    def _reaches(self, term: int, index: int) -> None:
        if term > self.match_term:
            self.match_term, self.index = term, index
        elif term == self.match_term and index > self.index:
            self.index = index


class Memory:
    """What all others have promised, and what is told of it to who asks for its own."""

    def __init__(self, kernel: Kernel, history: History | None) -> None:
        self._kernel = kernel
        self._history = history
        self._heard: dict[NodeId, Heard] = {}
        """Of members only: whoever is none is not listened to."""
        self._asked: dict[NodeId, int] = {}
        """Questions whose answer may have gone into a link that was dead already."""

    def note(self, peer: NodeId, message: Message) -> None:
        """That node said that."""
        heard = self._heard.get(peer)
        if heard is None:
            heard = self._heard[peer] = Heard()
        heard.note(message)

    def connected(self, peer: NodeId) -> None:
        """There is another link: what was answered into the one before may be lost."""
        asked = self._asked.pop(peer, None)
        if asked is not None:
            self._answer(peer, asked)

    def on_recall(self, peer: Peer, question: Recall) -> None:
        """That node has started, and wants to know what it said."""
        self._asked[peer.id] = question.asked
        self._answer(peer.id, question.asked)

    def _answer(self, peer: NodeId, asked: int) -> None:
        heard = self._heard.get(peer) or Heard()
        log, history = self._kernel.log, self._history
        self._kernel.wire.tell(
            peer,
            RecallAnswer(
                asked=asked,
                generation=history.generation_of(peer) if history is not None else 0,
                term=heard.term,
                voted_term=heard.voted_term,
                match_term=heard.match_term,
                index=heard.index,
                list_term=log.voters_at_point.term,
                list_index=log.voters_at_point.index,
                voters=log.voters,
            ),
        )


_HELD: Final = limits.RAFT_HELD


class Rollback:
    """The question whether this node's own journal is behind what it said."""

    def __init__(self, kernel: Kernel, stored: Stored, history: History | None) -> None:
        self._kernel = kernel
        self._history = history or History()
        self._ballot, self._last = stored.ballot, last_of(stored)
        self._starts = 0 if stored == EMPTY else self._history.starts_known
        """The newest start of this node that its journal knows of; None: it does not say."""
        self._number = int(kernel.chance.random() * 2**32)
        """Of this start's question: an answer to an earlier start's is none."""
        self._answers: dict[NodeId, RecallAnswer] = {}
        self._ask_at = math.inf
        self._due_at = math.inf
        """Whoever is to answer has done so by then."""
        self._held: deque[tuple[Peer, Message]] = deque()
        """What came in the meantime, in order."""
        self.checked = Checked.PENDING if history is not None else Checked.PASSED
        self.why_behind = ""

    @property
    def is_over(self) -> bool:
        """The node may promise."""
        return self.checked in (Checked.PASSED, Checked.UNANSWERED)

    @property
    def wake_at(self) -> float:
        """When something is to be done."""
        if self.checked is not Checked.PENDING:
            return math.inf
        return min(self._due_at, self._ask_at)

    def hold(self, peer: Peer, message: Message) -> None:
        """Keep this until the node may promise; what is too much is as if it were lost."""
        if self.checked is Checked.PENDING and len(self._held) < _HELD:
            self._held.append((peer, message))

    def connected(self, peer: Peer) -> None:
        if self.checked is Checked.PENDING:
            self._ask(peer.id)

    def link_lost(self, peer: Peer) -> None:
        """What it said over that link does not count any more, but for its answer."""
        self._held = deque(pair for pair in self._held if pair[0] != peer)

    def on_answer(self, peer: Peer, answer: RecallAnswer) -> None:
        """Somebody remembers.  Later than the end of the check it may be of this very start."""
        if self.checked is not Checked.PENDING or answer.asked != self._number:
            return
        self._answers[peer.id] = answer
        why = self._lacks(answer)
        if why is not None and not self._kernel.configuration.vote_is_void:
            self.checked = Checked.BEHIND
            self.why_behind = f"{short(peer.id)} {why}"
            self._held.clear()

    def step(self) -> None:
        """Ask again whoever did not answer; see whether enough did."""
        if self.checked is not Checked.PENDING:
            return
        kernel = self._kernel
        if kernel.now >= self._ask_at:
            self._ask_at = math.inf
            for node in sorted(kernel.wire.connected - self._answers.keys()):
                self._ask(node)
        voters = self._newest_list()
        alone = voters == (kernel.me,)
        wanted = set(self._history.others if alone or not voters else voters) - {kernel.me}
        if wanted <= self._answers.keys():
            self._pass()
        elif alone or self._enough(voters):
            settings = kernel.settings
            patience_s = settings.election_min_s if alone else settings.heartbeat_s
            self._due_at = min(self._due_at, kernel.now + patience_s)
            if kernel.now >= self._due_at:
                self._pass()
        else:
            self._due_at = math.inf

    def _ask(self, node: NodeId) -> None:
        self._kernel.wire.tell(node, Recall(asked=self._number))
        self._ask_at = self._kernel.now + self._kernel.settings.heartbeat_s

    def _newest_list(self) -> tuple[NodeId, ...]:
        """This node's own may be years old, and all that are in it gone."""
        log = self._kernel.log
        known = [(log.voters_at_point, log.voters)]
        known += [
            (Point(answer.list_term, answer.list_index), tuple(map(NodeId, answer.voters)))
            for answer in self._answers.values()
        ]
        return max(known)[1]

    def _enough(self, voters: tuple[NodeId, ...]) -> bool:
        answered = self._answers.keys() & set(voters)
        if self._kernel.me in voters:
            return 2 * (len(answered) + 1) > len(voters)
        return bool(self._answers)  # it has no vote, and nobody counts what it has

    def _lacks(self, answer: RecallAnswer) -> str | None:
        """What this node said, by the answer, and does not know."""
        ballot, last = self._ballot, self._last
        if self._starts is not None and answer.generation > self._starts:
            return f"knows of its start {answer.generation}, and the journal of {self._starts}"
        if answer.term > ballot.term:
            return f"heard it in term {answer.term}, and the journal ends in {ballot.term}"
        if answer.voted_term == ballot.term > 0 and ballot.voted_for is None:
            return f"got its vote in term {ballot.term}, and the journal has none"
        if answer.match_term == ballot.term and answer.index > last.index:
            return f"heard that it had entry {answer.index}, and the journal ends at {last.index}"
        return None

    def _pass(self) -> None:
        kernel = self._kernel
        unanswered = not self._answers and set(self._history.others) - {kernel.me}
        self.checked = Checked.UNANSWERED if unanswered else Checked.PASSED
        term = max((answer.term for answer in self._answers.values()), default=0)
        if term > kernel.stock.term:  # a void vote: at least it follows nobody from before that
            kernel.adopt_term(term)
        if kernel.configuration.voters == (kernel.me,):
            kernel.stock.deadline = kernel.now  # a sole voter has nobody to wait for
        held, self._held = self._held, deque()
        for peer, message in held:
            try:
                kernel.handle(peer, message)
            except (Nonsense, NotEligible):
                continue  # as if it had been refused when it came
