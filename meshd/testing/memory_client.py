"""A client of the API, on a host in memory: one request, followed while its answer comes.

    client = MemoryClient(host, api_port, sweeper)
    answer = client.openai("tiny", max_tokens=5)     # nothing is sent yet
    nursery.start_soon(answer.run)
    ... answer.text, answer.pause(), answer.leave() ...

It reads OpenAI's SSE and Ollama's NDJSON as those clients do: what ends without a finish_reason and
without the dialect's own error is "cut", which meshd must never let happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import trio

from meshd import limits
from meshd.errors import MeshdError
from meshd.http import HttpClient, Sweeper
from meshd.ids import Address
from meshd.ports import ByteStream, Network

OPENAI_CHAT: Final = "/v1/chat/completions"
OLLAMA_CHAT: Final = "/api/chat"
QUESTION: Final = [{"role": "user", "content": "Count, please."}]

_JSON: Final = (b"content-type", b"application/json")


class MemoryAnswer:
    """One request, and what of its answer is there."""

    def __init__(
        self,
        client: HttpClient,
        path: str,
        body: dict[str, Any] | None,
        headers: Sequence[str],
        before: bytes = b"",
    ) -> None:
        """A `POST` of that body, or a `GET`.

        `before`: what the client has of that stream from elsewhere, and goes on from.
        """
        self.path = path
        self.body = body
        self.status = 0
        """0 until the head of the answer is there."""
        self.headers: dict[str, str] = {}
        self.raw = b""
        """All of the body, as it came; behind what the client had before."""
        self.text = ""
        self.thoughts = ""
        self.pieces: list[float] = []
        """When each event or line with text or thoughts came."""
        self.comments: list[float] = []
        """When each comment came, which means nothing but that somebody is there."""
        self.finish: str | None = None
        self.error = ""
        """The dialect's own error: in the stream, or the message of a 4xx or 5xx."""
        self.last_id = ""
        """Of the last event that had an id."""
        self.broken = ""
        """Why the connection broke, if it did."""
        self.data: Any = None
        """The decoded body of an answer that was not streamed."""
        self.ended_at: float | None = None
        self._client = client
        self._sent_headers = [] if body is None else [_JSON]
        for header in headers:
            name, _, value = header.partition(":")
            self._sent_headers.append((name.strip().lower().encode(), value.strip().encode()))
        self._stream: ByteStream | None = None
        self._may_read = trio.Event()
        self._may_read.set()
        self.slowness_s = 0.0
        """How long the client is busy with each piece that it has read."""
        self.raw = before
        for line in before.splitlines():
            self._line(line)

    # --- what the client does

    async def run(self) -> None:
        """Send it and read the answer to its end.  What breaks is noted, not raised."""
        try:
            await self._run()
        except MeshdError as error:
            self.broken = str(error)
        self.ended_at = trio.current_time()

    def leave(self) -> None:
        """The client goes away."""
        assert self._stream is not None, "it was not sent yet"
        self._stream.abort("the client left")

    def pause(self) -> None:
        """The client stops reading, and stays."""
        if self._may_read.is_set():
            self._may_read = trio.Event()

    def resume(self) -> None:
        """It reads again."""
        self._may_read.set()

    # --- what came of it

    @property
    def sent(self) -> bool:
        """Whether there is a connection on which it is asked."""
        return self._stream is not None

    @property
    def over(self) -> bool:
        return self.ended_at is not None

    @property
    def how(self) -> str:
        """whole | refused | error (in the stream) | cut | broken; "" while it runs."""
        if not self.over:
            return ""
        if self.status != 200 and not self.broken:
            return "refused"
        if self.finish is not None and not self.error and not self.broken:
            return "whole"
        return "error" if self.error else "broken" if self.broken else "cut"

    @property
    def holder(self) -> str:
        """The name of the node that answered."""
        return self.headers.get("x-meshd-node", "")

    @property
    def attempts(self) -> int:
        return int(self.headers.get("x-meshd-attempts", "1"))

    async def _run(self) -> None:
        response = await self._client.request(
            "GET" if self.body is None else "POST",
            self.path,
            self._sent_headers,
            b"" if self.body is None else msgspec.json.encode(self.body),
            on_stream=self._sent,
        )
        self.status = response.status
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        kind = self.headers.get("content-type", "")
        if not kind.startswith(("text/event-stream", "application/x-ndjson")):
            self.raw = await response.read(limits.ENGINE_BODY_BYTES)
            self._whole(self.raw)
            return
        held = b""
        while True:
            await self._may_read.wait()
            data = await response.read_some()
            if not data:
                break
            self.raw += data
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                self._line(line)
            if self.slowness_s:
                await trio.sleep(self.slowness_s)
        if held:
            self.broken = f"the answer ended within a line: {held[:80]!r}"

    def _sent(self, stream: ByteStream) -> None:
        self._stream = stream

    def _line(self, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments.append(trio.current_time())
        elif line.startswith(b"id: "):
            self.last_id = line.removeprefix(b"id: ").decode()
        elif line and line != b"data: [DONE]":
            self._event(line.removeprefix(b"data: "))

    def _event(self, event: bytes) -> None:
        assert not self.error, f"nothing comes after the error: {event!r}"
        data = msgspec.json.decode(event)
        if "error" in data:
            self.error = _message(data["error"])
        elif "choices" in data:
            for choice in data["choices"]:
                part = choice.get("delta", choice)
                self._think(part.get("reasoning_content") or "")
                self._add(part.get("content") or part.get("text") or "")
                self.finish = choice["finish_reason"] or self.finish
        else:
            message = data.get("message", data)
            self._think(message.get("thinking") or "")
            self._add(message.get("content") or data.get("response") or "")
            if data["done"]:
                self.finish = data["done_reason"]

    def _think(self, thought: str) -> None:
        assert not self.text or not thought, "nothing is thought once something is said"
        if thought:
            self.thoughts += thought
            self.pieces.append(trio.current_time())

    def _add(self, text: str) -> None:
        assert self.finish is None or not text, "no text comes after the end"
        if text:
            self.text += text
            self.pieces.append(trio.current_time())

    def _whole(self, body: bytes) -> None:
        self.data = msgspec.json.decode(body)
        if self.status != 200:
            self.error = _message(self.data.get("error", ""))
            return
        for choice in self.data.get("choices", ()):
            part = choice.get("message", choice)
            self.thoughts = part.get("reasoning_content") or ""
            self.text = part.get("content") or part.get("text") or ""
            self.finish = choice["finish_reason"]
        if "done_reason" in self.data:
            message = self.data.get("message", self.data)
            self.thoughts = message.get("thinking") or ""
            self.text = message.get("content") or self.data.get("response") or ""
            self.finish = self.data["done_reason"]


class MemoryClient:
    """A program on one host that talks to one node's API."""

    def __init__(self, network: Network, address: Address, sweeper: Sweeper) -> None:
        self._http = HttpClient(
            lambda: network.dial_plain(address, limits.DIAL_S),
            host=str(address),
            sweeper=sweeper,
            pool_size=0,  # each request by itself, as from programs of their own
        )

    def post(
        self, path: str, body: dict[str, Any], *headers: str, before: bytes = b""
    ) -> MemoryAnswer:
        """A request to be `run`; `headers` as "name: value", `before`: see `MemoryAnswer`."""
        return MemoryAnswer(self._http, path, body, headers, before)

    def openai(self, model: str, *headers: str, stream: bool = True, **more: Any) -> MemoryAnswer:
        """A chat in OpenAI's dialect."""
        body = {"model": model, "messages": QUESTION, "stream": stream, **more}
        return self.post(OPENAI_CHAT, body, *headers)

    def ollama(self, model: str, *headers: str, stream: bool = True, **more: Any) -> MemoryAnswer:
        """A chat in Ollama's dialect."""
        body = {"model": model, "messages": QUESTION, "stream": stream, **more}
        return self.post(OLLAMA_CHAT, body, *headers)

    def stream(self, path: str, *headers: str, before: bytes = b"") -> MemoryAnswer:
        """An answer that is asked for by `GET`, to be `run`; `before`: see `MemoryAnswer`."""
        return MemoryAnswer(self._http, path, None, headers, before)

    async def get(self, path: str) -> Any:
        """A list, decoded."""
        response = await self._http.request("GET", path)
        return msgspec.json.decode(await response.read(limits.ENGINE_BODY_BYTES))

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A small request with a JSON body: the answer's status and its body, decoded."""
        data = b"" if body is None else msgspec.json.encode(body)
        headers = [(b"content-type", b"application/json")] if data else []
        response = await self._http.request(method, path, headers, data)
        answer = await response.read(limits.ENGINE_BODY_BYTES)
        return response.status, msgspec.json.decode(answer) if answer else None


def _message(error: Any) -> str:
    return str(error["message"] if isinstance(error, dict) else error)
