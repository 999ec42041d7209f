"""A control link whose one side says whatever a test writes."""

from __future__ import annotations

from meshd.errors import StreamBroken
from meshd.ports import ByteStream
from meshd.wire.control import Hello, Message, decode, encode
from meshd.wire.framing import FrameReader, frame


class Raw:
    """The dialling side of a link, by hand."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._reader = FrameReader(1 << 20)
        self._got: list[tuple[Message, int]] = []

    async def say(self, message: Message, request_id: int = 0) -> None:
        await self.stream.send_all(frame(encode(message, request_id)))

    async def hear(self) -> tuple[Message, int]:
        """The next message; StreamBroken when there will be none."""
        while not self._got:
            data = await self.stream.receive_some()
            if not data:
                raise StreamBroken("the other side has closed")
            self._got += [decode(payload) for payload in self._reader.feed(data)]
        return self._got.pop(0)

    async def greet(self, hello: Hello) -> Message:
        """Say hello; what comes back."""
        await self.say(hello)
        return (await self.hear())[0]

    async def ended(self) -> bool:
        """Whether the other side closes, whatever it still says."""
        try:
            while True:
                await self.hear()
        except StreamBroken:
            return True
