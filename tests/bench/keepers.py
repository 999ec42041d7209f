"""The other side of `keeper.py`: a few processes that keep one record, and what they are asked."""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshd.consensus.entries import Record
from meshd.consensus.journal import Owner, open_journal
from meshd.consensus.voter_list import founding_records
from meshd.ids import MeshId, NodeId
from meshd.machine.disk import FileDisk
from meshd.machine.entropy import SystemEntropy
from tests.bench.keeper import Member, Spec
from tests.unit.tiny_ca import TinyCa

ANSWER_S = 60.0


class Died(RuntimeError):
    """The process ended before it answered."""


@dataclass(eq=False)
class Process:
    """A child that takes orders as JSON lines and answers them."""

    command: list[str]
    log: Path
    child: subprocess.Popen[bytes] | None = None
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    hello: dict[str, Any] = field(default_factory=dict)
    """The first thing it said."""
    _answers: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = field(default_factory=dict)
    _next: int = 0
    _reader: threading.Thread | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self.child.stdout is not None
        first = self.child.stdout.readline()
        if not first:
            raise Died(f"{self.command!r} did not start:\n{self.log_text()}")
        self.hello = json.loads(first)
        self._reader = threading.Thread(target=self._read, args=(self.child,), daemon=True)
        self._reader.start()

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.endswith(b"\n"):
                break  # killed in the middle of a word
            said = json.loads(line)
            if "acknowledged" in said:
                self.acknowledged.append(said["acknowledged"])
            elif "refused" in said:
                self.refused.append(said["why"])
            else:
                self._answers[said["id"]].put(said)
        for waiting in list(self._answers.values()):
            waiting.put(None)

    def order(self, what: str, **how: Any) -> Callable[[], dict[str, Any]]:
        """Tell it to do something; the result is asked for by calling what this returns."""
        self._next += 1
        number = self._next
        answers = self._answers[number] = queue.SimpleQueue()
        assert self.child is not None
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps({"id": number, "do": what, **how}).encode() + b"\n")
            self.child.stdin.flush()

        def result() -> dict[str, Any]:
            try:
                answer = answers.get(timeout=ANSWER_S)
            except queue.Empty:
                raise Died(f"no answer to {what!r}:\n{self.log_text()}") from None
            del self._answers[number]
            if answer is None:
                raise Died(f"it ended before it answered {what!r}:\n{self.log_text()}")
            if "error" in answer:
                raise RuntimeError(f"{what}: {answer['error']}")
            return answer

        return result

    def ask(self, what: str, **how: Any) -> dict[str, Any]:
        """Tell it to do something, and wait until it is done."""
        return self.order(what, **how)()

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def kill(self) -> float:
        """kill -9; the moment of it by the monotonic clock."""
        assert self.child is not None
        at = time.monotonic()
        self.child.kill()
        self.child.wait()
        if self._reader is not None:
            self._reader.join()
        return at

    def freeze(self) -> float:
        """It does nothing any more, and its connections stay open: a cable that was cut."""
        at = time.monotonic()
        os.kill(self.pid, signal.SIGSTOP)
        return at

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Whatever state it is in, it is gone afterwards; in order, if it can."""
        if self.child is None or self.child.poll() is not None:
            return
        self.thaw()
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):
            self.child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(5)
        self.kill()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@dataclass(eq=False)
class Keepers:
    """All processes of one record, by name."""

    folder: Path
    specs: dict[str, Spec]
    running: dict[str, Process] = field(default_factory=dict)
    """The last start of each."""
    started: list[Process] = field(default_factory=list)
    """All starts, for what they said before they died."""
    _generation: int = 1
    """Of the last start; 1 was before there was any."""

    def __getitem__(self, name: str) -> Process:
        return self.running[name]

    def name_of(self, node: str) -> str:
        return next(name for name, spec in self.specs.items() if spec.node == node)

    def start(self, *names: str) -> None:
        """Start these (again), and tell everybody where everybody is."""
        for name in names:
            self._generation += 1
            process = Process(
                [
                    sys.executable, "-m", "tests.bench.keeper",
                    str(self.folder / f"{name}.json"), str(self._generation),
                ],
                self.folder / f"{name}.log",
            )  # fmt: skip
            process.start()
            self.running[name] = process
            self.started.append(process)
        self.introduce()

    def introduce(self) -> None:
        ports = {self.specs[name].node: p.hello["port"] for name, p in self.alive()}
        for waiting in [process.order("peers", ports=ports) for _, process in self.alive()]:
            waiting()

    def alive(self) -> list[tuple[str, Process]]:
        return [
            (name, process)
            for name, process in self.running.items()
            if process.child is not None and process.child.poll() is None
        ]

    def others(self, name: str) -> list[str]:
        return [other for other, _ in self.alive() if other != name]

    def leader(self, among: Sequence[str] | None = None, within_s: float = 20.0) -> str:
        """Wait until one leads, all know it and each has a link to each; its name."""
        end = time.monotonic() + within_s
        names = list(among) if among is not None else [name for name, _ in self.alive()]
        while time.monotonic() < end:
            seen = {name: self[name].ask("status") for name in names}
            leaders = {status.get("leader") for status in seen.values()}
            if len(leaders) == 1 and None not in leaders:
                leader = self.name_of(leaders.pop())
                settled = all(s["links"] >= len(names) - 1 for s in seen.values())
                if leader in names and seen[leader]["ready"] and settled:
                    return leader
            time.sleep(0.01)  # polling real processes; nothing depends on how often
        raise RuntimeError(f"nobody leads: {seen}")

    def until_equal(self, within_s: float = 20.0) -> str:
        """Wait until all that run have applied the same; the digest of it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            seen = [process.ask("status") for _, process in self.alive()]
            if len({(s.get("applied"), s.get("digest")) for s in seen}) == 1:
                digest = seen[0].get("digest")
                if digest:
                    return str(digest)
            time.sleep(0.02)  # polling real processes; nothing depends on how often
        raise RuntimeError(f"they differ: {seen}")

    def close(self) -> None:
        for process in self.running.values():
            process.close()


@contextmanager
def keepers(
    folder: Path, names: str = "abc", *, voters: str = "abc", started: bool = True
) -> Iterator[Keepers]:
    """Processes of these names, of which some vote from the beginning."""
    ca = TinyCa.new()
    credentials = {name: ca.credentials() for name in names}
    members = [
        Member(c.node, name, _base64(_public_key(c.certificate_pem)))
        for name, c in credentials.items()
    ]
    specs = {
        name: Spec(
            node=c.node,
            mesh=c.mesh,
            certificate=c.certificate_pem.decode(),
            key=c.private_key_pem.decode(),
            ca=c.ca_pem.decode(),
            ca_key=_base64(_public_key(c.ca_pem)),
            folder=str(folder / name / "record"),
            members=members,
        )
        for name, c in credentials.items()
    }
    records = founding_records([NodeId(specs[name].node) for name in voters]) if voters else ()
    for name, spec in specs.items():
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(spec))
        (folder / f"{name}.json").chmod(0o600)
        if voters:
            write_journal(spec, records if name in voters else ())
    made = Keepers(folder, specs)
    try:
        if started:
            made.start(*names)
        yield made
    finally:
        made.close()


def write_journal(spec: Spec, *batches: Sequence[Record]) -> None:
    """What a keeper finds on its disk when it starts; each batch is synced."""
    owner = Owner(MeshId(spec.mesh), NodeId(spec.node))
    opened = open_journal(FileDisk(), Path(spec.folder), owner, SystemEntropy())
    for records in batches:
        if records:
            opened.journal.write(records)
    opened.journal.close()


def _public_key(certificate_pem: bytes) -> bytes:
    key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
