"""Faults on a mesh that exists: what a command did counts, whatever it says, and is put right."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from meshd_chaos import target
from meshd_chaos.nemeses import CannotInject
from meshd_chaos.run import client_over
from meshd_chaos.scenario import Fault
from meshd_chaos.schedule import Step
from meshd_chaos.target import Target, TargetStage
from tests.unit.tiny_ca import TinyCa

HERE = "127.0.0.1"
KILL = Step(at_s=0.0, for_s=1.0, fault=Fault(name="kill"), seed=1)


@asynccontextmanager
async def studio(folder: Path, kill: str) -> AsyncIterator[TargetStage]:
    """A node that answers until there is a file `dead`; `start` takes that away."""
    dead = folder / "dead"

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        status = b"503 Away" if dead.exists() else b"200 OK"
        await stream.send_all(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host=HERE))
        url = f"http://{HERE}:{listeners[0].socket.getsockname()[1]}"
        told = Target(
            urls=(url,),
            models=("llama",),
            with_faults=True,
            kills={"studio": f"cd {folder}; {kill}"},
            starts={"studio": f"cd {folder}; rm -f dead; touch started"},
        )
        yield TargetStage(told, {"studio": url})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ending", ["", "; exit 3", "; sleep 100"])
async def test_a_node_that_was_killed_is_started_again_however_the_command_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    if "sleep" in ending:
        monkeypatch.setattr(target, "COMMAND_S", 0.5)
    async with studio(tmp_path, f"touch dead{ending}") as stage:
        injected = await stage.inject(KILL)
        assert injected.nodes == ("studio",)
        assert "killed studio's daemon" in injected.did
        assert ("although" in injected.did) == bool(ending)
        await stage.heal(KILL)
        assert (tmp_path / "started").exists()
        assert await stage.whole_again(5.0) == []


async def test_a_kill_that_shows_later_is_put_right_in_the_end(tmp_path: Path) -> None:
    async with studio(tmp_path, "exit 3") as stage:
        with pytest.raises(CannotInject, match="ended with 3"):
            await stage.inject(KILL)
        (tmp_path / "dead").touch()
        assert await stage.whole_again(5.0) == []
        assert (tmp_path / "started").exists()


async def test_a_node_that_nothing_was_done_to_is_not_started(tmp_path: Path) -> None:
    async with studio(tmp_path, "exit 3") as stage:
        with pytest.raises(CannotInject):
            await stage.inject(KILL)
        with pytest.raises(CannotInject, match="ended with 3"):
            await stage.inject(KILL)  # it is free to be tried again
        assert await stage.whole_again(5.0) == []
        assert not (tmp_path / "started").exists()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def test_an_api_key_is_not_sent_to_who_cannot_prove_its_name(tmp_path: Path) -> None:
    (tmp_path / "web.pem").write_bytes(TinyCa.new().web_server("localhost"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "web.pem")
    heard: list[bytes] = []

    async def listen(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with pytest.raises(trio.BrokenResourceError):
            heard.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, listen, 0, context, host=HERE)
        listeners = await nursery.start(serve)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        async with client_over(None) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(f"https://localhost:{port}/v1/models")
        nursery.cancel_scope.cancel()
    assert heard == []
    assert any(isinstance(e, ssl.SSLCertVerificationError) for e in causes(caught.value))
