"""Pairing: two screens show the same six digits only if nobody stands in the middle.  Pure.

The newcomer commits to its key and nonce by a hash; only then the member shows its nonce; only then
the newcomer opens the commitment.  The digits are a hash over everything: both keys, both nonces.
Whoever stands in the middle must choose what decides the digits on each screen before learning what
the other side has chosen, so each commitment is one guess in a million, and guesses are rationed
(`limits.PAIRING_TRIES`).  Nothing secret crosses before people at *both* ends have consented.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meshd import limits
from meshd.errors import ProtocolError, Refused
from meshd.identity.keys import PublicKey
from meshd.identity.tokens import NONCE_BYTES

COMMITMENT_BYTES: Final = 32


def make_commitment(public_key_der: bytes, nonce: bytes) -> bytes:
    """What the newcomer sends first: SHA-256 over its key and its nonce."""
    return _hash(b"meshd pairing commitment 1", public_key_der, nonce)


def make_digits(
    *,
    server_certificate_hash: bytes,
    ca_public_key_der: bytes,
    public_key_der: bytes,
    newcomer_nonce: bytes,
    member_nonce: bytes,
) -> str:
    """The six digits: a hash over both ends' keys and both nonces, modulo a million."""
    digest = _hash(
        b"meshd pairing digits 1",
        server_certificate_hash,
        ca_public_key_der,
        public_key_der,
        newcomer_nonce,
        member_nonce,
    )
    return f"{int.from_bytes(digest, 'big') % 10**limits.DIGITS:0{limits.DIGITS}d}"


def show_digits(digits: str) -> str:
    """As a person reads them: `123 456`."""
    half = limits.DIGITS // 2
    return f"{digits[:half]} {digits[half:]}"


def read_digits(text: str) -> str:
    """What a person typed, without blanks and dashes.  Raises Refused if it is not six digits."""
    digits = "".join(c for c in text if c not in " -\t")
    if len(digits) != limits.DIGITS or not (digits.isascii() and digits.isdigit()):
        raise Refused(f"{text!r} is not the {limits.DIGITS} digits that the new machine shows.")
    return digits


def _hash(*parts: bytes) -> bytes:
    covered = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return hashlib.sha256(covered).digest()


# --- the newcomer's side


@dataclass(slots=True)
class NewcomerPairing:
    """The newcomer's part of one pairing: `commitment` out, member's nonce in, digits."""

    public_key: PublicKey
    nonce: bytes
    """`NONCE_BYTES` random bytes, for this one pairing; not sent before the member's."""
    server_certificate_hash: bytes
    ca_public_key: PublicKey

    @property
    def commitment(self) -> bytes:
        return make_commitment(self.public_key.der, self.nonce)

    def digits(self, member_nonce: bytes) -> str:
        """What this screen shows once the member's nonce is there.  Raises ProtocolError."""
        if len(member_nonce) != NONCE_BYTES:
            raise ProtocolError("The member's nonce has the wrong size.")
        return make_digits(
            server_certificate_hash=self.server_certificate_hash,
            ca_public_key_der=self.ca_public_key.der,
            public_key_der=self.public_key.der,
            newcomer_nonce=self.nonce,
            member_nonce=member_nonce,
        )


# --- the member's side


class PairingState(StrEnum):
    COMMITTED = "committed"
    """The nonce went out; the commitment is still closed."""
    SHOWN = "shown"
    """The digits stand on both screens."""
    AGREED = "agreed"
    """Both sides have consented: the newcomer may be admitted."""
    ENDED = "ended"
    """Over, for the reason in `ended`."""


class PairingEnd(StrEnum):
    """How a pairing ends without an admission."""

    REFUSED_THERE = "refused there"
    REFUSED_HERE = "refused here"
    WRONG_DIGITS = "wrong digits"
    TIMED_OUT = "timed out"
    GONE = "gone"


class PairingsFull(Refused):
    """No more pairings are taken on right now."""


class WrongDigits(Refused):
    """Digits were typed that no waiting machine shows; none waits any more."""

    def __init__(self, digits: str) -> None:
        super().__init__(
            f"No waiting machine shows {show_digits(digits)}. To be safe, all that waited were "
            "refused: start the new machine again, and compare the digits on both screens."
        )


@dataclass(slots=True, eq=False)
class MemberPairing:
    """One newcomer that waits for consent.  Made by `Pairings.open`."""

    id: int
    commitment: bytes
    server_certificate_hash: bytes
    """Of the certificate that the newcomer sees on this connection."""
    ca: PublicKey
    nonce: bytes
    """The member's; may be sent now that the commitment is here."""
    name: str
    address: str
    opened_s: float
    on_change: Callable[[], None]
    """Called after each change of `state`, to wake the connection's task."""
    state: PairingState = PairingState.COMMITTED
    ended: PairingEnd | None = None
    public_key: PublicKey | None = None
    digits: str = ""
    newcomer_agreed: bool = False
    member_agreed: bool = False

    @property
    def expires_s(self) -> float:
        """When it ends by itself, on the timeline of `opened_s`."""
        return self.opened_s + limits.PAIRING_S


class Pairings:
    """All pairings that go on at one member.

    At most `limits.PAIRINGS_PENDING` at a time, and at most `limits.PAIRING_TRIES` begun within
    `limits.PAIRING_S`, however they ended: whoever drops one and tries again does not get more
    guesses at the digits that stand on some screen.
    Times are seconds on one clock that never jumps.
    """

    def __init__(self) -> None:
        self._open: dict[int, MemberPairing] = {}
        self._begun_s: deque[float] = deque()
        self._next_id = 1

    def open(
        self,
        commitment: bytes,
        *,
        server_certificate_hash: bytes,
        ca: PublicKey,
        name: str,
        address: str,
        nonce: bytes,
        now_s: float,
        on_change: Callable[[], None],
    ) -> MemberPairing:
        """Take a commitment; `nonce` is `NONCE_BYTES` fresh random bytes.

        Raises PairingsFull, and ProtocolError for a commitment of the wrong size.
        """
        if len(commitment) != COMMITMENT_BYTES:
            raise ProtocolError("A pairing commitment has the wrong size.")
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        self.expire(now_s)
        begun = self.begun(now_s)
        if len(self._open) >= limits.PAIRINGS_PENDING:
            raise PairingsFull(f"{len(self._open)} other machines are waiting for consent.")
        if begun >= limits.PAIRING_TRIES:
            raise PairingsFull(f"{begun} pairings were begun within {limits.PAIRING_S:.0f} s.")
        self._begun_s.append(now_s)
        pairing = MemberPairing(
            id=self._next_id,
            commitment=commitment,
            server_certificate_hash=server_certificate_hash,
            ca=ca,
            nonce=nonce,
            name=name,
            address=address,
            opened_s=now_s,
            on_change=on_change,
        )
        self._next_id += 1
        self._open[pairing.id] = pairing
        return pairing

    def reveal(self, pairing: MemberPairing, public_key: PublicKey, nonce: bytes) -> str:
        """The newcomer opens its commitment: the digits that stand on both screens now.

        Raises ProtocolError, and ends the pairing, if that is not what it committed to.
        """
        if pairing.state is not PairingState.COMMITTED:
            raise ProtocolError("A pairing was revealed out of turn.")
        right = make_commitment(public_key.der, nonce)
        if len(nonce) != NONCE_BYTES or not hmac.compare_digest(right, pairing.commitment):
            self.end(pairing, PairingEnd.GONE)
            raise ProtocolError("A newcomer's key and nonce are not what it committed to.")
        pairing.public_key = public_key
        pairing.digits = make_digits(
            server_certificate_hash=pairing.server_certificate_hash,
            ca_public_key_der=pairing.ca.der,
            public_key_der=public_key.der,
            newcomer_nonce=nonce,
            member_nonce=pairing.nonce,
        )
        pairing.state = PairingState.SHOWN
        pairing.on_change()
        return pairing.digits

    def newcomer_agrees(self, pairing: MemberPairing) -> None:
        """The person at the newcomer said yes.  Raises ProtocolError before the digits show."""
        if pairing.state is PairingState.ENDED:
            return
        if pairing.state is not PairingState.SHOWN or pairing.newcomer_agreed:
            raise ProtocolError("A newcomer's consent came out of turn.")
        pairing.newcomer_agreed = True
        self._settle(pairing)

    def approve(self, digits: str, now_s: float) -> MemberPairing:
        """Somebody typed the newcomer's digits at this member.

        Digits that nobody here shows are a slip or a man in the middle: they end every pairing that
        waits, so that nobody gets a second guess.  Raises Refused, saying so.
        """
        digits = read_digits(digits)
        waiting = self.pending(now_s)
        if not waiting:
            raise Refused("No machine is waiting for consent at this node.")
        matching = [one for one in waiting if hmac.compare_digest(one.digits, digits)]
        if len(matching) != 1:
            self.refuse_all(now_s)
            raise WrongDigits(digits)
        pairing = matching[0]
        pairing.member_agreed = True
        self._settle(pairing)
        return pairing

    def refuse_all(self, now_s: float) -> None:
        """Somebody typed digits that fit none, or more than one: nobody gets a second guess."""
        for one in self.pending(now_s):
            self.end(one, PairingEnd.WRONG_DIGITS)

    def begun(self, now_s: float) -> int:
        """How many were begun within the last `limits.PAIRING_S`: guesses at the digits."""
        while self._begun_s and now_s - self._begun_s[0] >= limits.PAIRING_S:
            self._begun_s.popleft()
        return len(self._begun_s)

    def pending(self, now_s: float) -> list[MemberPairing]:
        """Those whose digits show and that nobody at this member has consented to, oldest first."""
        self.expire(now_s)
        return [
            one
            for one in self._open.values()
            if one.state is PairingState.SHOWN and not one.member_agreed
        ]

    def expire(self, now_s: float) -> None:
        """End those whose time is over."""
        for pairing in list(self._open.values()):
            if now_s >= pairing.expires_s:
                self.end(pairing, PairingEnd.TIMED_OUT)

    def end(self, pairing: MemberPairing, why: PairingEnd) -> None:
        """It is over; the first reason stands.  After AGREED it only gives its place free."""
        if self._open.pop(pairing.id, None) is None or pairing.state is PairingState.AGREED:
            return
        pairing.state = PairingState.ENDED
        pairing.ended = why
        pairing.on_change()

    def _settle(self, pairing: MemberPairing) -> None:
        if pairing.newcomer_agreed and pairing.member_agreed:
            pairing.state = PairingState.AGREED
            pairing.on_change()
