"""What is measured against each other: ways from a client to the fixed backend.

Each is a context manager that takes the backend's port and gives the port to talk to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshd.ports import Credentials
from tests.bench import daemons
from tests.bench.tools import free_port, nginx, python_module, running
from tests.unit.tiny_ca import TinyCa

_KEEP = "keepalive 64; keepalive_requests 100000000;"
_PROXY = """
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
"""


@dataclass(frozen=True)
class Contender:
    """A way, by name; `start` takes the backend's port and gives its own."""

    name: str
    start: Callable[[int], AbstractContextManager[int]]


@contextmanager
def direct(backend: int) -> Iterator[int]:
    yield backend


@contextmanager
def nginx_proxy(backend: int) -> Iterator[int]:
    port = free_port()
    block = f"""
    upstream backend {{ server 127.0.0.1:{backend}; {_KEEP} }}
    server {{
      listen 127.0.0.1:{port} backlog=4096;
      location / {{ {_PROXY} proxy_pass http://backend; }}
    }}"""
    with nginx(block, port):
        yield port


@contextmanager
def bare_proxy(backend: int) -> Iterator[int]:
    port = free_port()
    with running(python_module("tests.bench.bare", "proxy", str(port), str(backend)), port):
        yield port


@contextmanager
def nginx_two_hops(backend: int) -> Iterator[int]:
    """Two nginx processes, mutual TLS 1.3 between them, connections kept."""
    entry, holder = free_port(), free_port()
    ca = TinyCa.new()
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as folder:
        files = [_write_pem(Path(folder), name, ca.credentials()) for name in ("entry", "holder")]
        entry_tls, holder_tls = files
        holder_block = f"""
        upstream backend {{ server 127.0.0.1:{backend}; {_KEEP} }}
        server {{
          listen 127.0.0.1:{holder} ssl backlog=4096;
          ssl_protocols TLSv1.3; ssl_verify_client on; ssl_client_certificate {folder}/ca.pem;
          ssl_certificate {holder_tls}; ssl_certificate_key {holder_tls};
          location / {{ {_PROXY} proxy_pass http://backend; }}
        }}"""
        entry_block = f"""
        upstream holder {{ server 127.0.0.1:{holder}; {_KEEP} }}
        server {{
          listen 127.0.0.1:{entry} backlog=4096;
          proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {entry_tls};
          proxy_ssl_certificate_key {entry_tls};
          location / {{ {_PROXY} proxy_pass https://holder; }}
        }}"""
        with nginx(holder_block, holder), nginx(entry_block, entry):
            yield entry


@contextmanager
def bare_two_hops(backend: int) -> Iterator[int]:
    """Two bare proxies, with the peer port of meshd between them."""
    entry, holder = free_port(), free_port()
    ca = TinyCa.new()
    ours, theirs = ca.credentials(), ca.credentials()
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as folder:
        for name, own, other in (("entry", ours, theirs), ("holder", theirs, ours)):
            fields = {
                "node": own.node,
                "mesh": own.mesh,
                "certificate": own.certificate_pem.decode(),
                "key": own.private_key_pem.decode(),
                "ca": own.ca_pem.decode(),
                "other": other.node,
            }
            Path(folder, name).write_text(json.dumps(fields))
        bare = "tests.bench.bare"
        far = python_module(bare, "holder", str(holder), str(backend), f"{folder}/holder")
        near = python_module(bare, "entry", str(entry), str(holder), f"{folder}/entry")
        with running(far, holder), running(near, entry):
            yield entry


def _write_pem(folder: Path, name: str, credentials: Credentials) -> str:
    path = folder / f"{name}.pem"
    path.write_bytes(credentials.certificate_pem + credentials.private_key_pem)
    (folder / "ca.pem").write_bytes(credentials.ca_pem)
    return str(path)


ONE_HOP = [
    Contender("direct", direct),
    Contender("nginx", nginx_proxy),
    Contender("bare meshd.http", bare_proxy),
    Contender("meshd", daemons.one_hop),
]
TWO_HOPS = [
    Contender("nginx, nginx", nginx_two_hops),
    Contender("bare, bare", bare_two_hops),
    Contender("meshd, meshd", daemons.two_hops),
]
