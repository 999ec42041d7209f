"""A proxy of nothing but `meshd.http`: the upper bound for the daemon on this machine.

    python -m tests.bench.bare proxy LISTEN_PORT UPSTREAM_PORT
    python -m tests.bench.bare holder LISTEN_PORT UPSTREAM_PORT CREDENTIALS
    python -m tests.bench.bare entry LISTEN_PORT HOLDER_PORT CREDENTIALS

`entry` and `holder` speak mutual TLS between them, as two nodes do.
"""

from __future__ import annotations

import cProfile
import json
import os
import signal
import sys
from pathlib import Path

import trio
from cryptography import x509

from meshd.http import HttpClient, HttpServer, Responder, ServerRequest, Sweeper, end_to_end
from meshd.ids import Address, MeshId, NodeId
from meshd.machine.network import RealNetwork
from meshd.ports import Alpn, ByteStream, Credentials, Listener

BODY_BYTES = 1 << 20


def node_of(certificate: bytes) -> NodeId:
    """The node in the SAN of a certificate of the test CA."""
    parsed = x509.load_der_x509_certificate(certificate)
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    return NodeId(uri.rpartition("/")[2])


def read_credentials(path: str) -> tuple[Credentials, NodeId]:
    """Ours, and the node id of the other one."""
    fields = json.loads(Path(path).read_text())
    credentials = Credentials(
        node=NodeId(fields["node"]),
        mesh=MeshId(fields["mesh"]),
        certificate_pem=fields["certificate"].encode(),
        private_key_pem=fields["key"].encode(),
        ca_pem=fields["ca"].encode(),
        check_peer=node_of,
    )
    return credentials, NodeId(fields["other"])


class Proxy:
    """Passes requests on, and answers back."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def handle(self, request: ServerRequest, responder: Responder) -> None:
        streams: list[ByteStream] = []
        responder.on_disconnect = lambda: streams[-1].abort("the client went away")
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = [header for header in end_to_end(request.headers) if header[0] != b"host"]
        response = await self._client.request(
            request.method, target, headers, request.body, on_stream=streams.append
        )
        passed = end_to_end(response.headers)
        if response.header(b"content-type") != b"text/event-stream":
            await responder.send(response.status, passed, await response.read(BODY_BYTES))
            return
        await responder.start(response.status, passed)
        while data := await response.read_some():
            await responder.write(data)
        await responder.finish()


async def main(role: str, listen_port: int, upstream_port: int, credentials: str = "") -> None:
    network = RealNetwork()
    upstream = Address("127.0.0.1", upstream_port)
    other = NodeId("")
    if credentials:
        ours, other = read_credentials(credentials)
        network.use(ours)

    async def dial() -> ByteStream:
        if role == "entry":
            return await network.dial_peer(other, [upstream], Alpn.HTTP, 5)
        return await network.dial_plain(upstream, 5)

    sweeper = Sweeper()
    client = HttpClient(dial, host=str(upstream), sweeper=sweeper)
    server = HttpServer(Proxy(client).handle, sweeper)
    listener: Listener
    if role == "holder":
        listener = await network.listen_peers(listen_port)
    else:
        listener = await network.listen_clients("127.0.0.1", listen_port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        nursery.start_soon(server.serve, listener)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def run() -> None:
    role, listen_port, upstream_port, *rest = sys.argv[1:]
    arguments = (role, int(listen_port), int(upstream_port), *rest)
    profile_path = os.environ.get("MESHD_BENCH_PROFILE")
    if profile_path:
        profile = cProfile.Profile()
        profile.runcall(trio.run, main, *arguments)
        profile.dump_stats(profile_path)
    else:
        trio.run(main, *arguments)


if __name__ == "__main__":
    run()
