"""What is asked of a job, and what is answered: the words of its histories.

`job_model.py` says which answers can be.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshd.testing.checker.history import History, Operation


class Phase(StrEnum):
    """Where a job is."""

    ABSENT = "absent"
    ACCEPTED = "accepted"
    """A keyed request that nobody runs."""
    QUEUED = "queued"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


IDLE = (Phase.ACCEPTED, Phase.QUEUED)
ENDED = (Phase.DONE, Phase.FAILED, Phase.CANCELLED, Phase.DEAD)

# --- what is asked


class _Action(msgspec.Struct, frozen=True, tag_field="does", tag=str.lower, omit_defaults=True):
    pass


class Submit(_Action, frozen=True):
    """Put it into a queue."""

    request: str
    """The fingerprint that came with its key: with another one it is to be refused.  "": it has no
    key, or may be joined without."""
    is_meant: bool = False
    """For a certain node: it is cancelled when that one is let go."""

    def __str__(self) -> str:
        return f"submission of {self.request}"


class Accept(_Action, frozen=True):
    """Take on a keyed request, to be run by this node at once."""

    request: str
    """The fingerprint: with another one the key is to be refused."""
    node: str

    def __str__(self) -> str:
        return f"acceptance of {self.request}, to run at {self.node}"


class Claim(_Action, frozen=True):
    """Let this node run it."""

    node: str

    def __str__(self) -> str:
        return f"claim by {self.node}"


class Renew(_Action, frozen=True):
    """A holder's sign of life."""

    fence: int

    def __str__(self) -> str:
        return f"renewal under fence {self.fence}"


class Complete(_Action, frozen=True):
    """This is its result."""

    fence: int
    result: str
    """Its digest."""

    def __str__(self) -> str:
        return f"completion under fence {self.fence} with {self.result}"


class Fail(_Action, frozen=True):
    """This attempt came to nothing; `final`: so will every other."""

    fence: int
    final: bool = False

    def __str__(self) -> str:
        return f"{'final ' if self.final else ''}failure under fence {self.fence}"


class Release(_Action, frozen=True):
    """The holder gives it back, unharmed."""

    fence: int

    def __str__(self) -> str:
        return f"release under fence {self.fence}"


class Expire(_Action, frozen=True):
    """The leader ends a lease."""

    fence: int

    def __str__(self) -> str:
        return f"expiry of fence {self.fence}"


class Move(_Action, frozen=True):
    """This node goes on with it, in place of its holder."""

    fence: int
    node: str

    def __str__(self) -> str:
        return f"move to {self.node} from under fence {self.fence}"


class LetGo(_Action, frozen=True):
    """A node was removed: what it holds goes on without it.  Say it of each job, or of all (""),
    and leave it open: nobody is told which jobs that were."""

    node: str

    def __str__(self) -> str:
        return f"letting go of {self.node}"


class Lapse(_Action, frozen=True):
    """A deadline passes, or a key is forgotten while nobody runs its request.  To be left open."""

    def __str__(self) -> str:
        return "lapse"


class Cancel(_Action, frozen=True):
    """Nobody wants it any more."""

    def __str__(self) -> str:
        return "cancellation"


class Retry(_Action, frozen=True):
    """Once more, for a dead one.  The dead are kept for a while only, so it may be refused."""

    def __str__(self) -> str:
        return "retry"


class Read(_Action, frozen=True):
    """A linearizable look.  Looks at what a node happens to have applied are no evidence here."""

    def __str__(self) -> str:
        return "read"


JobAction = (
    Submit
    | Accept
    | Claim
    | Renew
    | Complete
    | Fail
    | Release
    | Expire
    | Move
    | LetGo
    | Lapse
    | Cancel
    | Retry
    | Read
)

# --- what is answered


class _Result(msgspec.Struct, frozen=True, tag_field="was", tag=str.lower, omit_defaults=True):
    pass


class Ok(_Result, frozen=True):
    """It is done."""

    phase: Phase | None = None
    """Where a failure, a release or an expiry left the job, as far as it was said."""

    def __str__(self) -> str:
        return f"ok, now {self.phase}" if self.phase else "ok"


class Granted(_Result, frozen=True):
    """It is yours, under this fence: to a claim, an acceptance, and a move."""

    fence: int

    def __str__(self) -> str:
        return f"granted under fence {self.fence}"


class Refused(_Result, frozen=True):
    """The job is not so that this could be done."""

    reason: str = ""

    def __str__(self) -> str:
        return f"refused ({self.reason})" if self.reason else "refused"


class Seen(_Result, frozen=True):
    """What a read saw.  Fields that a reader is not shown may be left at their defaults."""

    phase: Phase
    fence: int | None = None
    """Of the last claim."""
    node: str | None = None
    result: str | None = None

    def __str__(self) -> str:
        more = [f"fence {self.fence}"] if self.fence is not None else []
        more += [f"at {self.node}"] if self.node else []
        more += [f"with {self.result}"] if self.result else []
        return " ".join([str(self.phase), *more])


class Joined(_Result, frozen=True):
    """To a submission or an acceptance: there is that job already, and it is not run for this."""

    seen: Seen | None = None
    """As far as it was told of the job."""

    def __str__(self) -> str:
        return f"joined, {self.seen}" if self.seen else "joined"


JobResult = Ok | Granted | Joined | Refused | Seen
JobOperation = Operation[JobAction, JobResult]
JobHistory = History[JobAction, JobResult]
