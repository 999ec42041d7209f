"""What this node says of itself.  Pure.

Only a node itself makes versions of itself: a word about this node that is later than its own last
one means that its generation was used before (a data directory restored from an older copy) or is
being used by somebody else (a copied one).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshd.ids import NodeId
from meshd.membership.constants import Settings
from meshd.membership.members import supersedes
from meshd.wire.gossip import Load, Profile, Version, Word, WordKind, make_word

Sign = Callable[[bytes], bytes]
"""Signs a word's payload with this node's key."""


class Own:
    """This node's identity and last word."""

    __slots__ = (
        "_renewed",
        "_said",
        "_settings",
        "_sign",
        "node",
        "profile",
        "said_at",
        "word",
    )

    def __init__(
        self,
        node: NodeId,
        generation: int,
        profile: Profile,
        sign: Sign,
        settings: Settings,
        now: float,
    ) -> None:
        self.node = node
        self.profile = profile
        """What is to be said."""
        self._said = profile
        """What the last word was made from (the word itself may lack the last addresses)."""
        self._sign = sign
        self._settings = settings
        self._renewed: list[float] = []
        self.said_at = now
        self.word: Word = make_word(node, (generation, 0), WordKind.ALIVE, profile, sign)

    @property
    def version(self) -> Version:
        return self.word.version

    @property
    def kind(self) -> WordKind:
        return self.word.kind

    def say(self, kind: WordKind, now: float) -> Word:
        """A new word, later than the last: `profile` as it is now, and alive, asleep or left."""
        generation, incarnation = self.word.version
        return self._speak((generation, incarnation + 1), kind, now)

    def renew(self, after: Word, now: float) -> bool:
        """Begin a generation behind that of a word that this start did not say.

        False if that has happened too often lately: two machines with one identity would outbid
        each other for ever.
        """
        horizon = now - self._settings.renewals_window_s
        self._renewed = [at for at in self._renewed if at > horizon]
        if len(self._renewed) >= self._settings.renewals:
            return False
        self._renewed.append(now)
        self._speak((after.version[0] + 1, 0), self.word.kind, now)
        return True

    def overtaken_by(self, word: Word) -> bool:
        """Whether a word about this node is later than the last that it said."""
        return supersedes(word, self.word)

    def wants_to_speak(self) -> bool:
        return self.profile != self._said

    def in_a_hurry(self) -> bool:
        """Whether what changed is more than load and inventory, which may wait for each other."""
        said, now = self._said, self.profile
        return said.load.draining != now.load.draining or _steady(said) != _steady(now)

    def _speak(self, version: Version, kind: WordKind, now: float) -> Word:
        self.word = make_word(self.node, version, kind, self.profile, self._sign)
        self._said = self.profile
        self.said_at = now
        return self.word


def _steady(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, inventory=0, load=Load())
