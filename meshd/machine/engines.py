"""The real `ports.Engines`: bundled engines as child processes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

import trio

import meshd
from meshd import limits
from meshd.errors import Refused

_CHILD: Final = Path(meshd.__file__).parent / "backends" / "engine_child.py"
_WORDS_S: Final = 0.2  # a grandchild could hold stderr open after the engine's end
_HASH_CHUNK_BYTES: Final = 1024 * 1024
_INSTALL: Final = "the bundled engine is not installed: pip install 'meshd[engine]'"


class LlamaProcess:
    """A running bundled engine (`ports.EngineProcess`)."""

    def __init__(self, process: trio.Process, words: _Tail) -> None:
        self._process = process
        self._words = words
        self.pid: int = process.pid
        self.url = ""
        self._heard = trio.Event()

    @property
    def last_words(self) -> str:
        return self._words.text()

    async def wait(self) -> int:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                code = await self._process.wait()
                with trio.move_on_after(_WORDS_S):
                    await self._heard.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()
                await self._close()
        return code

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while data := await stderr.receive_some(4096):
            self._words.add(bytes(data))
        self._heard.set()

    async def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                await stream.aclose()


class RealEngines:
    """Spawns `meshd.backends.engine_child` (`ports.Engines`).

    `extra` goes to every child's command line: tests ask for `--kv-f32` and one thread.
    """

    def __init__(self, *, extra: Sequence[str] = ()) -> None:
        self._extra = tuple(extra)

    async def spawn(
        self, gguf: PurePath, *, alias: str, slots: int, context_tokens: int, embedding: bool
    ) -> LlamaProcess:
        """See `ports.Engines`."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise Refused(f"Cannot serve {gguf}: {_INSTALL}.")
        command = [
            sys.executable,
            "-P",  # no module of the current folder
            str(_CHILD),
            *("--gguf", str(gguf)),
            *("--alias", alias),
            *("--slots", str(slots)),
            *("--context-tokens", str(context_tokens)),
            *(["--embedding"] if embedding else []),
            *self._extra,
        ]
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,  # never written: its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the daemon, which first drains
            env=_child_environment(),
        )
        engine = LlamaProcess(process, _Tail(limits.ENGINE_WORDS_BYTES))
        try:
            engine.url = await _ready_url(process, engine, gguf)
        except BaseException:  # also a cancel: no engine stays behind; raised again
            process.kill()
            with trio.CancelScope(shield=True):
                await engine.wait()
            raise
        return engine

    async def digest(self, gguf: PurePath) -> str:
        """See `ports.Engines`."""
        return await trio.to_thread.run_sync(_file_digest, Path(gguf))


async def _ready_url(process: trio.Process, engine: LlamaProcess, gguf: PurePath) -> str:
    """What the child's ready line says.  Raises Refused."""
    with trio.move_on_after(limits.ENGINE_START_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine._listen)
            line = await _first_line(process)
            if line:
                nursery.cancel_scope.cancel()
            # else it is ending: `_listen` returns when it has said all
        if line:
            return _url_of(line, gguf)
        code = await process.wait()
        words = engine.last_words or f"it ended with exit code {code}"
        raise Refused(f"The bundled engine does not serve {gguf}: {words}")
    words = engine.last_words or "it said nothing"
    raise Refused(
        f"The bundled engine was not ready with {gguf} after {limits.ENGINE_START_S:.0f} s: {words}"
    )


async def _first_line(process: trio.Process) -> bytes:
    """The child's first line, b"" if it closed its stdout before."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and len(line) <= limits.ENGINE_READY_BYTES:
        data = await process.stdout.receive_some(limits.ENGINE_READY_BYTES)
        if not data:
            return b""
        line += data
    return line


def _url_of(line: bytes, gguf: PurePath) -> str:
    try:
        url = json.loads(line)["ready"]
    except (ValueError, KeyError, TypeError):
        url = None
    if not isinstance(url, str) or not url.startswith("http://127.0.0.1:"):
        raise Refused(f"The bundled engine for {gguf} said something else than where it serves.")
    return url


def _child_environment() -> dict[str, str]:
    """Ours without meshd's own settings, among which may be a token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            trio.from_thread.check_cancelled()
    return "gguf-" + digest.hexdigest()


class _Tail:
    """The last bytes of a talkative stream."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = b""

    def add(self, data: bytes) -> None:
        self._data = (self._data + data)[-self._max_bytes :]

    def text(self) -> str:
        """The last few lines, as one."""
        lines = self._data.decode("utf-8", "replace").splitlines()
        return " | ".join(line.strip() for line in lines[-6:] if line.strip())
