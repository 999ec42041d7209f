"""What the command line and the daemon say to each other over the control socket.  Pure.

HTTP/1.1 over a UNIX socket (0600), JSON bodies of these structs.  `meshd status --json` prints
`StatusReport` as it is: fields may be added, so readers ignore what they do not know.

    GET  /control/status            -> StatusReport
    GET  /control/nodes             -> list[NodeRow]
    GET  /control/models            -> list[ModelRow]
    GET  /control/record            -> RecordReport
    POST /control/record/clock      -> Done              (the machines' clocks are right)
    POST /control/voters   VoteOrder    -> VotesDecided
    GET  /control/record/backup     -> a snapshot file (proto/journal.md)
    GET  /control/doctor            -> list[Finding]     (the daemon's own view)
    POST /control/token    TokenOrder   -> TokenMade
    GET  /control/tokens            -> list[TokenRow]
    POST /control/token/revoke TokenQuery -> Done
    GET  /control/pending           -> list[PendingRow]
    POST /control/approve  ApproveOrder -> Done
    POST /control/drain    NodeOrder    -> Done
    POST /control/undrain  NodeOrder    -> Done
    POST /control/labels   LabelsOrder  -> Done
    POST /control/remove   NodeOrder    -> Done
    POST /control/leave    LeaveOrder   -> Done              (then the daemon stops)
    POST /control/stop              -> Done
    GET  /control/keys              -> list[KeyRow]
    POST /control/keys     KeyOrder -> Done
    POST /control/keys/revoke KeyRevocation -> Done
    POST /control/jobs        JobsQuery -> jobs.views.JobsPage
    POST /control/jobs/show   JobQuery  -> jobs.views.JobView
    POST /control/jobs/cancel JobQuery  -> jobs.views.JobView
    POST /control/jobs/retry  JobQuery  -> jobs.views.JobView
    POST /control/jobs/submit jobs.orders.Order -> JobMade
    POST /control/requests    RequestsQuery -> jobs.request_views.RequestsPage
    POST /control/requests/show JobQuery -> jobs.request_views.RequestView
An error is a 4xx/5xx with `Problem`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meshd import limits

Severity = Literal["ok", "warn", "fail"]


class Problem(msgspec.Struct, frozen=True):
    """Why an order was not carried out, as a sentence for the reader."""

    error: str


class Done(msgspec.Struct, frozen=True):
    """It was carried out; what to show."""

    message: str


class TokenOrder(msgspec.Struct, frozen=True):
    ttl_s: float | None = None
    uses: int = 1


class TokenMade(msgspec.Struct, frozen=True):
    token: str
    expires_unix_s: float
    uses: int
    join_addresses: list[str]


class TokenRow(msgspec.Struct, frozen=True):
    """A token on record; nothing of it is secret."""

    id: str
    uses: int
    used_by: list[str]
    """Names of the nodes that joined by it, or the beginnings of their ids."""
    expires_unix_s: float
    good: bool
    """Somebody may still join by it."""


class TokenQuery(msgspec.Struct, frozen=True):
    """Which token: its id, or the whole of it."""

    token: str


class ApproveOrder(msgspec.Struct, frozen=True):
    digits: str


class KeyOrder(msgspec.Struct, frozen=True):
    """A new API key: the command line made it and tells only its hash."""

    name: Annotated[str, Meta(max_length=limits.NAME_CHARS)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """In hex."""
    created_unix_s: Annotated[float, Meta(ge=0, le=2**40)]


class KeyRevocation(msgspec.Struct, frozen=True):
    """Take back the key of this id, or beginning of it, or name."""

    which: str


class KeyRow(msgspec.Struct, frozen=True):
    """An API key, of which nobody has more than the hash."""

    id: str
    name: str
    created_unix_s: float


class JobsQuery(msgspec.Struct, frozen=True):
    """Which jobs; empty: any.  Without a state, those that are not over."""

    state: str = ""
    queue: str = ""
    model: str = ""
    node: str = ""
    """Name or id of the node that has them, or had them last."""
    limit: int = 100


class RequestsQuery(msgspec.Struct, frozen=True):
    """Which requests that were no jobs; empty: any."""

    state: str = ""
    model: str = ""
    node: str = ""
    """Name or id of the node that answered."""
    limit: int = 100


class JobQuery(msgspec.Struct, frozen=True):
    """Which job."""

    id: str
    wait_s: float = 0.0
    """So long to wait until it is over, before it is shown as it is."""


class JobMade(msgspec.Struct, frozen=True):
    """A job was put in, or was there already (by its dedupe key)."""

    id: str
    jobs: int
    """A broadcast is one for each node; `id` is the first."""
    state: str
    new: bool
    note: str = ""
    """What whoever put it in should know, as a sentence."""


class NodeOrder(msgspec.Struct, frozen=True):
    """Which node: its name, its id or a prefix of it; empty for this one."""

    node: str = ""


class LabelsOrder(msgspec.Struct, frozen=True):
    """Give a node these labels and no others."""

    node: str
    labels: list[str]


class PendingRow(msgspec.Struct, frozen=True):
    """A newcomer waiting for consent."""

    digits: str
    name: str
    address: str
    waiting_s: float


class NodeRow(msgspec.Struct, frozen=True):
    """One member, as this node sees it."""

    id: str
    name: str
    addresses: list[str]
    state: str
    """self | alive | suspect | failed | left | asleep | unknown"""
    version: str
    founder: bool
    """It founded the mesh."""
    drained: bool
    models: int
    warm: int
    running: int
    queued: int
    slots: int
    seen_s: float | None
    """Seconds since it was last heard of."""
    engines: list[str] = []
    labels: list[str] = []
    admits: bool = False
    """It holds the CA's key, so it can let newcomers in."""


class Copy(msgspec.Struct, frozen=True):
    """One node's copy of a model."""

    node: str
    engine: str
    digest: str
    resident: bool
    context_tokens: int
    slots: int


class ModelRow(msgspec.Struct, frozen=True):
    name: str
    digests: int
    """How many different digests go by this name; more than 1 is flagged."""
    capabilities: list[str]
    copies: list[Copy]


class BackendRow(msgspec.Struct, frozen=True):
    """One engine of this node."""

    id: str
    engine: str
    url: str
    version: str
    models: int
    slots: int
    state: str
    """serving | gone: WHY | refused: WHY"""


class LeaveOrder(msgspec.Struct, frozen=True):
    """This node leaves its mesh for good."""

    destroy: bool = False
    """And ends it: for the last one that can."""


class VoteOrder(msgspec.Struct, frozen=True):
    """What a person decides of a node's vote."""

    node: str
    """Its name, its id or a prefix of it."""
    vote: Literal["auto", "always", "never"]


class VotesDecided(msgspec.Struct, frozen=True):
    """It is decided; the leader carries it out, whoever watches."""

    message: str
    voters: list[str]
    """Who will have a vote then: ids."""
    done: bool
    """They have it already."""


class VoterRow(msgspec.Struct, frozen=True):
    """One node's part in keeping the record."""

    id: str
    name: str
    part: str
    """leads | votes | follows"""
    state: str
    """here (this node) | answers | away: whether it answers this node now."""
    index: int | None = None
    """How far its copy reaches, where this node sends it the log and so knows."""
    follows: str = ""
    """The voter from which it gets what is committed, if it needs one and this node knows."""
    vote: str = "auto"
    """What was decided of its vote: auto | always (promoted) | never (demoted)."""
    void: bool = False
    """It lost what it had promised and does not vote, until its vote was taken and given anew; as
    far as this node knows (of others, the leader does)."""
    holds_ca: bool = False
    """It has the key of the mesh's CA, and can let nodes in."""


class RecordReport(msgspec.Struct, frozen=True):
    """The record as this node has it."""

    problem: str
    """Why it cannot be written now, as a sentence with what to do; empty: it can."""
    leader: str
    """Its name; empty: none is known."""
    term: int
    last: int
    """The end of the log here."""
    commit: int
    """Of which this much is known to be held by a majority."""
    applied: int
    """And this much is part of the state here."""
    digest: str
    """Hash of that state: the same at every node that has applied as much."""
    sync_ms: float
    """What making something durable costs here; 0: not measured."""
    members: int
    voters: list[VoterRow]
    """All nodes, those with a vote first."""
    notes: list[str] = []
    """What is no trouble, and good to know."""


class StatusReport(msgspec.Struct, frozen=True):
    """How the mesh looks from here."""

    version: str
    node: NodeRow
    mesh: str
    members_version: int
    client_url: str
    peer_port: int
    pid: int
    uptime_s: float
    nodes: list[NodeRow]
    backends: list[BackendRow]
    models: int
    counters: dict[str, int]
    """Requests, answers, retries, refusals, bad datagrams, ...: see api/DESIGN.md."""
    problems: list[str]
    """Each a sentence; empty: healthy (exit 0), else degraded (exit 1)."""
    notes: list[str] = []
    """What is no trouble, and good to know."""


class Finding(msgspec.Struct, frozen=True):
    """One check of `meshd doctor`."""

    code: str
    severity: Severity
    what: str
    remedy: str = ""
