"""Looking at this machine from outside a daemon: what `meshd doctor` asks of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import httpx
import psutil

from meshd.ids import Address
from meshd.machine.host import open_files_limit

MDNS_GROUP = "224.0.0.251"
MDNS_PORT = 5353
COMMAND_S = 5.0
HTTP_S = 2.0
DIAL_S = 2.0
ECHO_S = 1.5


@dataclass(frozen=True, slots=True)
class Output:
    """What a command said."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Echo:
    """Whether a multicast packet that this machine sent came back to it."""

    heard: bool
    errno: int = 0
    """Of the send (or of the socket, if it came not that far); 0 if all went well."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or folder as the system shows it."""

    uid: int
    mode: int
    is_folder: bool


class Probes:
    """This machine, really asked.  Nothing here raises for what it finds."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.platform = sys.platform
        self.uid = os.geteuid()
        self.python = psutil.Process().exe() or os.path.realpath(sys.executable)

    def wall(self) -> float:
        return time.time()

    def open_files(self) -> int:
        return open_files_limit()

    def has_program(self, name: str) -> bool:
        return shutil.which(name) is not None

    def has_path(self, path: str) -> bool:
        return Path(path).exists()

    def run(self, *command: str) -> Output | None:
        """Run a program that only shows something; None if it is not there or hangs."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Output(done.returncode, done.stdout + done.stderr)

    def look(self, path: PurePath) -> Seen | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return Seen(found.st_uid, found.st_mode & 0o7777, Path(path).is_dir())

    def names_in(self, folder: PurePath) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except OSError:
            return []

    def free_bytes(self, path: PurePath) -> int | None:
        """Free space of the disk that holds the path, or will."""
        folder = Path(path)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            return None

    def port_problem(self, host: str, port: int, *, datagrams: bool) -> int:
        """Try to take a port and give it back: 0, or the errno of the attempt."""
        kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, kind) as taken:
                if not datagrams:
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind((host, port))
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
        return 0

    def holder_of_port(self, port: int) -> str:
        """Who has a port, as far as this user may see: "ollama, pid 41", or ""."""
        with suppress(psutil.Error, OSError):
            for connection in psutil.net_connections("inet"):
                local = connection.laddr
                taken = connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
                if taken and connection.pid and local and local.port == port:
                    return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
        return ""

    def get_json(self, url: str) -> object:
        """The JSON at an address, or None: nobody there, not JSON, too slow."""
        try:
            with httpx.Client(timeout=HTTP_S, trust_env=False) as client:
                return client.get(url).json()
        except (httpx.HTTPError, ValueError, UnicodeError):
            return None

    def dial(self, address: Address) -> int:
        """Connect over TCP and hang up: 0, or the errno of the attempt."""
        try:
            with socket.create_connection((address.host, address.port), timeout=DIAL_S):
                return 0
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:
            return error.errno or errno.EHOSTUNREACH

    def multicast_echo(self) -> Echo:
        """Send one mDNS question for a name that nobody has, and listen for it."""
        label = f"meshd-doctor-{secrets.token_hex(6)}".encode()
        name = bytes([len(label)]) + label + b"\x05local\x00"
        question = struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 12, 1)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as both:
                both.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if hasattr(socket, "SO_REUSEPORT"):
                    both.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                both.bind(("", MDNS_PORT))
                group = socket.inet_aton(MDNS_GROUP) + socket.inet_aton("0.0.0.0")
                both.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                both.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
                both.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
                both.sendto(question, (MDNS_GROUP, MDNS_PORT))
                return Echo(_hears(both, label))
        except OSError as error:
            return Echo(False, error.errno or errno.EIO)


def _hears(receiver: socket.socket, label: bytes) -> bool:
    give_up_at = time.monotonic() + ECHO_S
    while (left := give_up_at - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            if label in receiver.recv(9000):
                return True
        except TimeoutError:
            return False
    return False
