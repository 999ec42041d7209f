"""The bundled engine as a real child process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from meshd.errors import Refused
from meshd.machine.engines import LlamaProcess, RealEngines
from meshd.testing.models import Recipe, build, expected_text

pytest.importorskip("xllamacpp", reason="the bundled engine is not installed: meshd[engine]")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    path.write_bytes(build())
    return path


async def spawn(gguf: Path, **changed: object) -> LlamaProcess:
    asked = {"alias": "tiny", "slots": 2, "context_tokens": 1024, "embedding": False} | changed
    return await RealEngines().spawn(gguf, **asked)  # type: ignore[arg-type]


def ask(url: str, path: str, body: object = None) -> dict[str, object]:
    request = urllib.request.Request(
        url + path, data=None if body is None else json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


async def is_gone(pid: int) -> None:
    """Until no process has that id; the test's own timeout bounds it."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await trio.sleep(0.01)


async def test_it_serves_what_the_model_says(gguf: Path) -> None:
    engine = await spawn(gguf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.wait)
        body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 9}
        answer = await trio.to_thread.run_sync(ask, engine.url, "/v1/chat/completions", body)
        props = await trio.to_thread.run_sync(ask, engine.url, "/props")
        nursery.cancel_scope.cancel()
    assert answer["choices"][0]["message"]["content"] == expected_text(max_tokens=9)  # type: ignore[index]
    assert (props["total_slots"], props["model_alias"]) == (2, "tiny")
    assert props["default_generation_settings"]["n_ctx"] == 1024  # type: ignore[index]
    await is_gone(engine.pid)


async def test_terminate_ends_it_at_once_though_a_stream_is_open(gguf: Path) -> None:
    engine = await spawn(gguf)
    body = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'
    stream = await trio.open_tcp_stream("127.0.0.1", int(engine.url.rpartition(":")[2]))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    await stream.send_all(head + body)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    engine.terminate()
    assert await engine.wait() == 128 + signal.SIGTERM
    await is_gone(engine.pid)


async def test_kill_is_reported_as_the_signal(gguf: Path) -> None:
    engine = await spawn(gguf)
    engine.kill()
    assert await engine.wait() == -signal.SIGKILL


async def test_a_file_that_is_no_model_is_refused_with_the_engines_words(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF" + b"x" * 64)
    with pytest.raises(
        Refused, match=r"does not serve .*wrong\.gguf: .*(gguf_init|failed to load model)"
    ):
        await spawn(wrong)


async def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        await spawn(tmp_path / "absent.gguf")


async def test_without_the_wheel_it_says_how_to_install_it(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install 'meshd\[engine\]'"):
        await spawn(gguf)


async def test_the_digest_is_that_of_the_file(gguf: Path) -> None:
    expected = "gguf-" + hashlib.sha256(build(Recipe())).hexdigest()
    assert await RealEngines().digest(gguf) == expected


async def test_no_setting_of_meshd_reaches_the_engine(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHD_TOKEN", "secret")
    engine = await spawn(gguf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.wait)
        environ = trio.Path(f"/proc/{engine.pid}/environ")
        if await environ.exists():  # Linux
            assert b"MESHD_" not in await environ.read_bytes()
        nursery.cancel_scope.cancel()


PARENT = """
import sys, trio
from pathlib import Path
from meshd.machine.engines import RealEngines

async def main():
    engine = await RealEngines().spawn(
        Path(sys.argv[1]), alias="tiny", slots=1, context_tokens=512, embedding=False
    )
    print(engine.pid, flush=True)
    await engine.wait()

trio.run(main)
"""


@pytest.fixture
def parent(gguf: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(gguf)], stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


async def test_kill_9_of_the_daemon_leaves_no_orphan(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    assert os.getsid(pid) == pid
    parent.kill()
    await is_gone(pid)
