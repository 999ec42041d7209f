"""A process with pysyncobj as it comes, to compare with: its own transport, its journal on.

    python -m tests.bench.stock_keeper JOURNAL OWN_PORT PORT...

It takes the orders of `keeper.py` that make sense here.  pysyncobj syncs nothing to disk and
encrypts nothing.  Nothing of meshd is imported: meshd's kernel changes pysyncobj for its process.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

COMMAND_BYTES = 200


class Register(SyncObj):  # type: ignore[misc]
    """Something to replicate: it forgets what it is told, as a Trace command does."""

    def __init__(self, own: str, others: list[str], journal: str) -> None:
        self.seen = 0
        super().__init__(own, others, SyncObjConf(journalFile=journal))

    @replicated  # type: ignore[misc]
    def take(self, data: bytes) -> int:
        self.seen += 1
        return self.seen


def one_by_one(register: Register, count: int, seconds: float) -> dict[str, Any]:
    took: list[float] = []
    until = time.perf_counter() + seconds
    data = bytes(COMMAND_BYTES)
    while len(took) < count and time.perf_counter() < until:
        begun = time.perf_counter()
        register.take(data, sync=True, timeout=10)
        took.append((time.perf_counter() - begun) * 1000)
    return {"took_ms": took}


def in_flight(register: Register, width: int, seconds: float) -> dict[str, Any]:
    count, open_, over = 0, 0, threading.Event()
    data, begun = bytes(COMMAND_BYTES), time.perf_counter()

    def begin() -> None:
        nonlocal open_
        open_ += 1
        register.take(data, callback=ended)

    def ended(result: object, error: int) -> None:
        nonlocal count, open_
        open_ -= 1
        count += error == FAIL_REASON.SUCCESS
        if time.perf_counter() - begun < seconds:
            begin()
        elif not open_:
            over.set()

    for _ in range(width):
        begin()
    over.wait(seconds + 30)
    return {"count": count, "took_s": time.perf_counter() - begun}


def status(register: Register) -> dict[str, Any]:
    leader = register._getLeader()
    return {
        "leader": None if leader is None else leader.address,
        "ready": register.isReady(),
        "applied": register.raftLastApplied,
    }


def main() -> None:
    journal, own, *others = sys.argv[1:]
    addresses = [f"127.0.0.1:{port}" for port in others]
    register = Register(f"127.0.0.1:{own}", addresses, journal)
    orders = {"one_by_one": one_by_one, "in_flight": in_flight, "status": status}
    sys.stdout.write(json.dumps({"port": int(own)}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        number, what = order.pop("id"), order.pop("do")
        sys.stdout.write(json.dumps({"id": number, **orders[what](register, **order)}) + "\n")
        sys.stdout.flush()
    register.destroy()


if __name__ == "__main__":
    main()
