"""Where pysyncobj is taken hold of: the pin, the private names, and its module globals.

pysyncobj is the kernel's motor (DESIGN.md of this package).  It was not made to be mended from
outside, so everything here depends on the one version that was read line by line.  Importing this
module checks that version and those names, takes clock, randomness, poller and journal factory
away from pysyncobj, and makes every path to pickle raise (hazard H9).

pysyncobj itself imports socket, time and random.  None of that is reached: its clock and its
randomness are those of the call that is running, its poller does nothing, and its transport,
journal and serializer are ours.  It is the one exception to the purity of this package's cores.
"""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn, Protocol

from meshd.consensus.interface import Chance
from meshd.errors import MeshdError


class PickleReached(MeshdError):
    """pysyncobj wanted to pickle or unpickle.  Hazard H9: that runs code from the network."""


def _no_pickle(*_: object, **__: object) -> NoReturn:
    raise PickleReached("pysyncobj reached for pickle, which is never used here (hazard H9).")


# Two modules of pysyncobj are never run: these stand in their places before anything looks there.
# The one for Windows, by a slip of its indentation, replaces socket.inet_ntop everywhere: from then
# on nobody in the process could print an IPv6 address.
sys.modules.setdefault("pysyncobj.win_inet_pton", ModuleType("pysyncobj.win_inet_pton"))
# All of pysyncobj's pickling goes through the other, which also changes the standard library's
# unpickler for everybody.
_NO_PICKLE: Final[Any] = ModuleType("pysyncobj.pickle")
_NO_PICKLE.to_bytes = bytes
_NO_PICKLE.load = _NO_PICKLE.loads = _NO_PICKLE.dump = _NO_PICKLE.dumps = _no_pickle
sys.modules["pysyncobj.pickle"] = _NO_PICKLE
import pysyncobj.journal  # noqa: E402
import pysyncobj.node  # noqa: E402
import pysyncobj.serializer  # noqa: E402
import pysyncobj.syncobj  # noqa: E402
import pysyncobj.tcp_connection  # noqa: E402
import pysyncobj.transport  # noqa: E402
import pysyncobj.version  # noqa: E402

# The classes that are built upon.  Nothing else imports pysyncobj, so that nothing can do so before
# this module has taken hold of it.
SyncObj: Final[Any] = pysyncobj.SyncObj
SyncObjConf: Final[Any] = pysyncobj.SyncObjConf
Journal: Final[Any] = pysyncobj.journal.Journal
Node: Final[Any] = pysyncobj.node.Node
Transport: Final[Any] = pysyncobj.transport.Transport

VERSION: Final = "0.3.17"
SYNCOBJ_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
"""Of pysyncobj/syncobj.py; a test compares it, since the daemon reads no files for that."""

OVERRIDDEN: Final = (
    "applyLogEntries", "changeCluster", "connectedToAnyone", "doApplyCommand", "doChangeCluster",
    "getEntries", "loadDumpFile", "onBecomeLeader", "parseChangeClusterRequest",
    "sendAppendEntries", "sendNextNodeIdx", "tryLogCompaction",
)  # fmt: skip
"""Private methods that kernel_stock.py replaces.  Under another name, stock code would run."""

CALLED: Final = (
    "generateRaftTimeout", "onLeaderChanged", "onMessageReceived", "setCurrentTerm", "setState",
    "updateClusterConfiguration",
)  # fmt: skip
"""Private methods that are called as they are."""

FIELDS: Final = (
    "commandsLocalCounter", "commandsWaitingCommit", "commandsWaitingReply", "lastResponseTime",
    "noopIDx", "otherNodes", "raftCommitIndex", "raftCurrentTerm", "raftElectionDeadline",
    "raftLastApplied", "raftLeader", "raftLog", "raftMatchIndex", "raftNextIndex", "raftState",
    "serializer", "transport", "votedForNodeId", "votesCount",
)  # fmt: skip
"""Private fields that are read or written."""

GLOBALS: Final = ("createJournal", "createPoller", "monotonicTime", "pickle", "random", "time")
"""Names that pysyncobj.syncobj looks up in itself, and that are replaced below."""


class KernelUnsound(MeshdError):
    """The pysyncobj that is installed is not the one that was mended."""


# --- the call that is running


class Turn:
    """One call into a kernel: while it lasts, pysyncobj's clock and randomness are this kernel's.

    So several kernels in one process can have different times, and a seed gives the same run.
    """

    __slots__ = ("_before", "chance", "now")

    def __init__(self, chance: Chance, now: float) -> None:
        self.chance = chance
        self.now = now
        self._before: Turn | None = None

    def __enter__(self) -> None:
        global _current
        self._before, _current = _current, self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _current
        _current, self._before = self._before, None


_current: Turn | None = None


def _turn() -> Turn:
    if _current is None:
        raise KernelUnsound("pysyncobj asked for the time outside of any call into a kernel.")
    return _current


def _now() -> float:
    return _turn().now


class _Random:
    """In the place of the module `random`, of which stock uses one function."""

    @staticmethod
    def random() -> float:
        return _turn().chance.random()


class _NoTime:
    """In the place of the module `time`, of which stock uses sleep() when its transport is down."""

    @staticmethod
    def sleep(seconds: float) -> NoReturn:
        raise KernelUnsound("pysyncobj wanted to sleep.")


class _NoPoller:
    """In the place of select and poll: there are no sockets."""

    def subscribe(self, *_: object) -> None: ...

    def unsubscribe(self, *_: object) -> None: ...

    def poll(self, timeout: float) -> None: ...


class _IsJournal(Protocol):
    is_kernel_log: bool


def _same_journal(journal: _IsJournal | None) -> _IsJournal:
    """`SyncObjConf(journalFile=...)` carries the object itself."""
    if journal is None or not getattr(journal, "is_kernel_log", False):
        raise KernelUnsound("A pysyncobj object was made without the kernel's own log.")
    return journal


# --- at import


def private(name: str) -> str:
    """The mangled form of a private name of pysyncobj's SyncObj."""
    return f"_SyncObj__{name}"


def missing_names() -> list[str]:
    """Names that are relied on and not there.  Fields are looked for in the constructor's code."""
    syncobj = pysyncobj.syncobj
    known: set[str] = set()
    for function in vars(syncobj.SyncObj).values():
        code = getattr(function, "__code__", None)
        known.update(code.co_names if code is not None else ())
    missing = [n for n in (*OVERRIDDEN, *CALLED) if not hasattr(syncobj.SyncObj, private(n))]
    missing += [n for n in FIELDS if private(n) not in known]
    # A replaced method that nobody calls any more would be replaced in vain.
    missing += [n for n in OVERRIDDEN if private(n) not in known]
    return missing + [n for n in GLOBALS if not hasattr(syncobj, n)]


def _take_hold() -> None:
    installed = pysyncobj.version.VERSION
    missing = missing_names()
    if installed != VERSION or missing:
        raise KernelUnsound(
            f"The record needs pysyncobj {VERSION}, and {installed} is installed"
            + (f" (without {', '.join(missing)})" if missing else "")
            + f". Install pysyncobj=={VERSION}; another version needs a new review of"
            " meshd/consensus/DESIGN.md."
        )
    syncobj: Any = pysyncobj.syncobj
    syncobj.monotonicTime = _now
    syncobj.random = _Random
    syncobj.time = _NoTime
    syncobj.createPoller = lambda kind: _NoPoller()
    syncobj.createJournal = _same_journal
    # Again, should anybody have imported pysyncobj before this module did.
    for module in (pysyncobj, syncobj, pysyncobj.serializer, pysyncobj.tcp_connection):
        module.pickle = _NO_PICKLE
    pysyncobj.journal.loads = pysyncobj.journal.dumps = _no_pickle


_take_hold()
