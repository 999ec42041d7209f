"""What both sides of a join share: taking turns over a stream, and saying why not (trio shell)."""

from __future__ import annotations

from collections import deque
from typing import Final, TypeVar

from meshd import limits
from meshd.errors import ProtocolError, Refused, StreamBroken
from meshd.ports import ByteStream
from meshd.wire.framing import FrameReader, frame
from meshd.wire.join import JoinMessage, JoinRefusal, Reason, decode_join, encode_join

_M = TypeVar("_M", bound=JoinMessage)


class JoinRefused(Refused):
    """Somebody was not let in; `reason` says why in one word, the text in a sentence."""

    def __init__(self, reason: Reason, text: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.reason: Final = reason
        self.retry_after_s: Final = retry_after_s


class RefusedThere(JoinRefused):
    """The other side refused; the text is its own, so it is a stranger's until that is proven."""


class Talk:
    """One join conversation: whole messages over a stream.  One task reads, one writes."""

    def __init__(self, stream: ByteStream) -> None:
        self.proven = False
        """Whether the other side is known to be of the mesh, as far as the newcomer can tell."""
        self._stream = stream
        self._reader = FrameReader(limits.JOIN_FRAME_BYTES)
        self._payloads: deque[bytes] = deque()

    async def send(self, message: JoinMessage) -> None:
        """Raises StreamBroken."""
        await self._stream.send_all(frame(encode_join(message)))

    async def receive(self) -> JoinMessage | None:
        """The next message; None at the other side's orderly end.

        Raises ProtocolError for anything that is no message, StreamBroken for a cut.
        """
        while not self._payloads:
            data = await self._stream.receive_some(limits.JOIN_FRAME_BYTES)
            if not data:
                if self._reader.mid_frame:
                    raise StreamBroken("The connection ended in the middle of a message.")
                return None
            self._payloads.extend(self._reader.feed(data))
        return decode_join(self._payloads.popleft())

    async def expect(self, kind: type[_M]) -> _M:
        """The next message, which must be of that kind.

        Raises RefusedThere if the other side refuses instead, ProtocolError for another kind,
        StreamBroken if the conversation ends.
        """
        return expected(await self.receive(), kind)


def expected(message: JoinMessage | None, kind: type[_M]) -> _M:
    """See `Talk.expect`."""
    if isinstance(message, kind):
        return message
    if isinstance(message, JoinRefusal):
        raise RefusedThere(
            message.known_reason,
            message.message,
            retry_after_s=message.retry_after_ms / 1000,
        )
    if message is None:
        raise StreamBroken("The other side closed the connection before the join was complete.")
    raise ProtocolError(f"A {type(message).__name__} came where a {kind.__name__} was due.")


_SENTENCES: Final = {
    Reason.FAILED: "{host} could not complete the join.",
    Reason.VERSION: (
        "{host} speaks another version of the join protocol: use the same meshd on both machines."
    ),
    Reason.MALFORMED: "{host} did not understand this machine's messages: is it the same meshd?",
    Reason.BUSY: "{host} has too many joins going on: try again in a moment.",
    Reason.WRONG_TOKEN: (
        "The token is wrong: the mesh has given out no such token. "
        "Make a new one with `meshd token create` on a member."
    ),
    Reason.EXPIRED_TOKEN: (
        "The token has expired. Make a new one with `meshd token create` on a member."
    ),
    Reason.USED_TOKEN: (
        "The token is used up. Make a new one with `meshd token create` on a member."
    ),
    Reason.OTHER_MESH: "The token is of another mesh than the one that {host} is in.",
    Reason.UNDECIDED: (
        "{host} is a member, but too few of the mesh's machines are there now to let anybody in: "
        "start them, then try again."
    ),
    Reason.PAIRING_REFUSED: "Pairing was refused at the other end.",
    Reason.WRONG_DIGITS: (
        "Other digits than the ones shown here were typed at the other end. If that was a slip, "
        "start again; if not, somebody stands between the two machines."
    ),
    Reason.TIMED_OUT: (
        "The join was not completed in time: start again; without a token, people at both machines "
        "have to consent within a few minutes."
    ),
    Reason.TOO_MANY_PENDING: (
        "Too many machines are waiting for consent at {host}: approve one, wait a few minutes, "
        "or use a token."
    ),
    Reason.REMOVED: (
        "This machine's key was removed from the mesh. "
        "Start it with a fresh data directory, so that it has a new key."
    ),
    Reason.MESH_FULL: "The mesh is full: remove a member first.",
}


def sentence(reason: Reason, host: str) -> str:
    """What a newcomer's screen shows for a refusal, in this program's own words."""
    return _SENTENCES[reason].format(host=host)


def in_our_words(refused: RefusedThere, host: str, *, proven: bool) -> JoinRefused:
    """The same refusal for the screen: the other side's own text only if it is proven."""
    text = sentence(refused.reason, host)
    if proven and str(refused) and refused.reason in (Reason.FAILED, Reason.UNDECIDED):
        text += f" It says: {refused}"
    return JoinRefused(refused.reason, text, retry_after_s=refused.retry_after_s)
