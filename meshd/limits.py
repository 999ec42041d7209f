"""Every bound on what a peer, a client or an engine can make grow.  Pure.

One file, so that they can be seen and argued about together.  Sizes are bytes, times seconds.
proto/limits.md lists those that are part of the protocol; `tests/conformance` compares the two.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# --- ports (packaging/config.md)
CLIENT_PORT: Final = 11435
PEER_PORT: Final = 11436

# --- http, both directions
HTTP_HEAD_BYTES: Final = 64 * KIB
HTTP_HEADERS: Final = 200
HTTP_TARGET_BYTES: Final = 8 * KIB
HTTP_BODY_BYTES: Final = 32 * MIB
BODIES_BYTES: Final = 256 * MIB  # of requests and of answers kept whole, over a whole node
BODY_COUNTED_BYTES: Final = 64 * KIB  # smaller ones are not counted; connections are
HTTP_CONNECTIONS: Final = 2048
HTTP_IDLE_S: Final = 75.0
HTTP_HEAD_S: Final = 10.0
HTTP_BODY_STALL_S: Final = 30.0
HTTP_BODY_S: Final = 600.0  # 32 MiB at 0.5 Mbit/s
HTTP_SEND_STALL_S: Final = 30.0
SSE_KEEP_ALIVE_S: Final = 15.0  # proxies give up after 55 s of silence, some clients sooner
HTTP_POOL_IDLE_PER_HOST: Final = 64
HTTP_POOL_IDLE_S: Final = 4.0  # llama.cpp says keep-alive timeout=5
PEER_SEND_STALL_S: Final = 600.0  # an entry reads as slowly as its client, which it watches itself
PEER_POOL_IDLE_S: Final = 60.0  # less than HTTP_IDLE_S, so that the asking side closes first
ENGINE_LINE_BYTES: Final = 8 * MIB  # Ollama's own client's limit for one NDJSON line
ENGINE_BODY_BYTES: Final = 64 * MIB
STREAM_EVENT_BYTES: Final = 2 * ENGINE_LINE_BYTES  # of an answer: escapes make a line longer

# --- peer protocol
CONTROL_FRAME_BYTES: Final = 1 * MIB
JOIN_FRAME_BYTES: Final = 4 * KIB
JOIN_OPEN: Final = 16
JOIN_OPEN_PER_ADDRESS: Final = 4  # so that no single stranger can keep all newcomers out
JOIN_CONNECTIONS: Final = 64  # those that are being sent away counted
JOIN_CONNECTIONS_PER_ADDRESS: Final = 16
JOIN_PER_ADDRESS_PER_S: Final = 1.0
JOIN_BURST: Final = 5
JOIN_S: Final = 60.0
JOIN_GOODBYE_S: Final = 2.0  # for a refusal to get out before the connection is cut
STREAM_FRAME_BYTES: Final = 1 * MIB
MSGPACK_DEPTH: Final = 16
MSGPACK_ITEMS: Final = 65_536
DATAGRAM_BYTES: Final = 1200  # Tailscale's MTU is 1280
REPLAY_WINDOW_PACKETS: Final = 64
GOSSIP_WORD_BYTES: Final = (
    896  # a member's word: fits into a datagram beside a ping and a suspicion
)
GOSSIP_SIGNATURE_BYTES: Final = 80  # ECDSA P-256 and Ed25519 have 64, DER up to 72
GOSSIP_STATE_BYTES: Final = 896 * KIB  # all that a member knows, in one control frame
GOSSIP_RELAYED_PINGS: Final = 256  # pings on behalf of others, waiting for their acks
MDNS_SIGHTINGS: Final = 256  # nodes in sight in the local network
GOSSIP_EXCHANGES: Final = 16  # exchanges of all that is known, at the same time
CONTROL_LINK_REQUESTS: Final = 64
CONTROL_LINK_OUTBOX_FRAMES: Final = 256
CONTROL_LINK_OUTBOX_BYTES: Final = 8 * MIB  # eight of the largest frames
CONTROL_LINKS_PER_NODE: Final = 4  # a node that dials anew may know before us that its last broke
PEER_CONNECTIONS: Final = 512
PEER_HANDSHAKE_S: Final = 5.0
MEMBERS: Final = 1024
ADDRESSES_PER_NODE: Final = 16
NAME_CHARS: Final = 64
TEXT_CHARS: Final = 1024  # a sentence for a person, in a refusal
REQUEST_ID_CHARS: Final = 128
KEY_MATERIAL_BYTES: Final = 256  # a public key, or one key of the keyring

# --- pairing and tokens (identity/DESIGN.md)
PAIRINGS_PENDING: Final = 3
PAIRING_S: Final = 300.0
PAIRING_TRIES: Final = 10  # commitments answered in any PAIRING_S: each is one guess in a million
DIGITS: Final = 6
TOKENS: Final = 256
TOKEN_TTL_S: Final = 24 * 3600.0
TOKEN_TTL_MAX_S: Final = 365 * 24 * 3600.0
TOKEN_TEXT_CHARS: Final = 128
CERTIFICATE_BYTES: Final = 2 * KIB
FORMER_CAS: Final = 8  # a node that has slept through more changes of the CA has to join again
CA_KEY_ASK_S: Final = 1.0  # a node that asks for the CA's key sooner again is refused
KEYRING_KEYS: Final = 8

# --- the member list (record/DESIGN.md)
MEMBERS_EVER: Final = 4096  # members and removed ids together, so that removing always fits
MEMBER_LIST_BYTES: Final = 768 * KIB  # travels whole in one control frame
LABELS_PER_NODE: Final = 16
LABEL_CHARS: Final = 64
HOST_CHARS: Final = 128  # so that all of a newcomer's addresses fit into one join frame
JOIN_ANSWER_BYTES: Final = 1 * MIB
JOIN_SOURCES: Final = 1024

# --- the replicated log (consensus/DESIGN.md)
RAFT_COMMAND_BYTES: Final = 32 * KIB  # larger things are blobs; the log holds their digests
RAFT_VOTERS: Final = 7  # five, and two in passing
RAFT_HELD: Final = 256  # messages that wait until a node has asked whether its journal is whole
RAFT_FORWARDS: Final = 256  # commands in one message to the leader, and answers in one
RAFT_LEARNERS: Final = 7  # that one leader sends the log to, since they may get a vote
RAFT_SUBSCRIBERS: Final = 256  # that one voter serves: five of them serve more than MEMBERS
RAFT_FEEDS_IN_FLIGHT: Final = 16  # messages to a subscriber, so that under load they get larger
RAFT_FEED_ENTRIES: Final = 8192  # in flight to one, and not applied by one
RAFT_MESSAGE_BYTES: Final = 1 * MIB
RAFT_BATCH_BYTES: Final = 64 * KIB  # of entries in one message, with the one that passes it
RAFT_BATCH_ENTRIES: Final = 4096
RAFT_WINDOW_BYTES: Final = 512 * KIB  # in flight to a follower: 80 ms of a slow Wi-Fi
RAFT_PART_BYTES: Final = 256 * KIB  # of a snapshot in one message
RAFT_CHUNK_BYTES: Final = 64 * KIB  # that is sent, so that heartbeats get in between
RAFT_CHUNKS_IN_FLIGHT: Final = 4
RAFT_SNAPSHOT_BYTES: Final = 512 * MIB
RAFT_QUEUE: Final = 10_000  # proposals that wait for a leader, or for room in its log
RAFT_QUEUE_BYTES: Final = 16 * MIB
RAFT_OPEN: Final = 32_768  # proposals and reads without an outcome yet
RAFT_UNCOMMITTED_BYTES: Final = 32 * MIB
RAFT_PER_STEP: Final = 256  # commands taken up, and applied: a step stays under 20 ms
RAFT_TRAILING: Final = 4096
RAFT_TRAILING_BYTES: Final = 8 * MIB

# --- requests (relay/DESIGN.md, routing/DESIGN.md)
ATTEMPTS: Final = 3
REPICKS: Final = 2
BACKEND_DEATHS_BEFORE_POISON: Final = 2
POISON_S: Final = 600.0
POISON_ENTRIES: Final = 1024
RETRY_BUDGET_FRACTION: Final = 0.2
RETRY_BUDGET_WINDOW_S: Final = 10.0
RETRY_BUDGET_FLOOR: Final = 10
ORPHAN_GRACE_S: Final = 5.0  # a run whose entry's link broke goes on for so long
ADOPT_AFTER_S: Final = (
    2.0  # a keyed one is gone on with, if its entry seems gone by then: a suspect
)
# that lives has refuted it
ADOPT_LOOK_S: Final = 0.25  # how often it is looked whether it is gone
GONE_WAIT_S: Final = 2.0  # from when an entry is known gone, for a holder to go on with what it ran
RESUME_BYTES: Final = 4 * MIB  # of an answer's frames that its holder keeps
RESUME_WINDOW_S: Final = 30.0  # for which they are kept after its end
RESUME_ENDED_BYTES: Final = 16 * MIB  # of all answers that ended: 16,000 short ones
RESUME_HEAD_S: Final = 0.2  # until a holder says that it has it, and four round trips
RESUMES: Final = 8  # of one attempt: a link that breaks again and again is no link
SPLICE_CHARS: Final = MIB  # of a stream that are kept, so that another run can go on with it
HEDGE_WAITS: Final = 128  # for a first token, that are remembered of one model
HEDGE_WAITS_MIN: Final = 20  # before that nobody knows what is late
HEDGE_MODELS: Final = 256
HEDGE_MIN_S: Final = 0.1  # nothing is late sooner
BEAT_S: Final = 0.5
HOLDER_SILENT_S: Final = 1.5
ROLL_CALL_S: Final = (
    0.5  # before a holder counts as gone the others are asked whether they are there
)
UNREACHED: Final = 8  # holders that are dialled in vain for one request
SEND_BUFFER_BYTES: Final = 4 * MIB  # Linux's default maximum of a TCP send buffer
SLOW_LINK_BYTES_PER_S: Final = 512 * KIB  # Wi-Fi at the end of the garden
DIAL_S: Final = 1.0
FIRST_TOKEN_MIN_S: Final = 10.0
FIRST_TOKEN_FACTOR: Final = 3.0
FIRST_TOKEN_LIVING_MIN_S: Final = 120.0  # of an engine that answers when asked whether it lives
FIRST_TOKEN_LIVING_FACTOR: Final = 30.0
INTER_TOKEN_MIN_S: Final = 5.0
INTER_TOKEN_MAX_S: Final = 60.0
INTER_TOKEN_FACTOR: Final = 20.0
REQUEST_S: Final = 1800.0
REQUEST_MAX_S: Final = 86400.0  # the most that a config may allow, and what a holder grants
DRAIN_S: Final = 30.0
DRAIN_MAX_S: Final = 3600.0  # the most that a config may allow
QUEUE_PER_NODE: Final = 512
QUEUE_WAIT_S: Final = 60.0
QUEUE_WAIT_MAX_S: Final = 3600.0  # the most that a config may allow, and what a holder grants
REQUESTS_IN_FLIGHT: Final = 1024  # at one entry
ANSWER_BYTES: Final = 64 * MIB  # kept for a client that does not stream, overhead counted
EMBED_INPUTS: Final = 2048
MESSAGES: Final = 4096
TOOLS: Final = 512
STOP_STRINGS: Final = 64
TOP_LOGPROBS: Final = 20  # OpenAI's and Ollama's own
MODEL_NAME_CHARS: Final = 512
JSON_DEPTH: Final = 64  # of schemas, tools, options and unknown fields
JSON_ITEMS: Final = 65_536  # in one such field
JSON_COMMAS: Final = 250_000  # in a body, those in texts too: more fits no model's context

# --- backends
BACKENDS: Final = 32
MODELS_PER_BACKEND: Final = 1024
PROBE_S: Final = 10.0
SHOWS_PER_PROBE: Final = 32
PROBE_LOST_S: Final = 2.0  # of an engine that ought to be there
PROBE_TIMEOUT_S: Final = 2.0
PROBE_MIN_S: Final = 0.5  # between something that asks for a probe, and it
FIRST_PROBES_S: Final = 5.0  # how long a start waits for the first look at all engines
ENGINE_TAIL_S: Final = 1.0  # after finish_reason: for token counts
ENGINE_CLOSE_S: Final = 0.1  # after the last event: for the end of the body
ENGINE_ERROR_BYTES: Final = 64 * KIB
ENGINE_START_S: Final = 300.0  # Ollama gives a load as long
ENGINE_WORDS_BYTES: Final = 8 * KIB
ENGINE_READY_BYTES: Final = 4 * KIB
ENGINE_RESTART_MIN_S: Final = 0.5
ENGINE_RESTART_MAX_S: Final = 30.0
ENGINE_COMPLAINT_S: Final = 600.0  # how often the log repeats that an engine fails as before
ENGINE_STEADY_S: Final = 60.0  # lived so long: the next restart is the first again

# --- models whose engines stopped, or whose nodes were not heard yet (routing/stopped.py)
STOPPED_S: Final = 600.0  # an engine that is restarted, with a large model to load, is back by then
STOPPED_MODELS: Final = 4096  # that are remembered of engines that stopped
UNHEARD_S: Final = 15.0  # from a start, with FIRST_PROBES_S, until what nobody told of is unknown

# --- the record at a node (ledger/)
PROPOSE_S: Final = 2.0  # one try of a command: longer than an election
COMMAND_S: Final = 10.0  # a command, with all its tries
ELECTORS: Final = 64  # members that a leader asks whether they could be voters
RECORD_SNAPSHOT_EVERY: Final = 10_000  # entries

# --- jobs (jobs/)
JOBS_RECENT: Final = 1024  # finished ones that are kept in memory, results and all
CLAIM_WAIT_S: Final = 60.0  # of a worker, for a job
JOB_RUN_S: Final = 1800.0  # of one attempt that the mesh itself makes
JOB_LEASE_S: Final = 15.0  # the mesh's own
JOB_RETRY_S: Final = (1.0, 2.0, 4.0)  # pauses before the next attempts, with jitter
JOBS_PAGE: Final = 500

# --- what a run has said, for others who ask the same (jobs/said.py)
SAID_LISTENERS: Final = 64  # of one run, those at other nodes counted; more wait for the whole
SAID_STEP_BYTES: Final = 64 * KIB  # to one listener at a time
RETRY_GRACE_S: Final = 3.0  # OpenAI's libraries come back within 0.5 s, then 1, 2, ...
RETRY_KEPT_BYTES: Final = 4 * MIB  # of one answer, for a client that may come back
RETRIES_AWAY: Final = 64  # such clients that are away
SAID_PAUSE_S: Final = (0.25, 0.5, 1.0, 2.0)  # between tries to hear a run at another node

# --- webhooks (jobs/DESIGN.md); WEBHOOKS, WEBHOOK_KEPT_S below
WEBHOOK_S: Final = 15.0  # for an answer
WEBHOOK_TRIES: Final = 12  # in half an hour, all in all
WEBHOOK_PAUSE_MAX_S: Final = 600.0
WEBHOOKS_AT_ONCE: Final = 16
WEBHOOK_SECRET_BYTES: Final = 16  # at the least

# --- blobs: bodies and results too large for the log (jobs/DESIGN.md)
BLOB_BYTES: Final = HTTP_BODY_BYTES  # the largest
BLOBS_BYTES: Final = 4096 * MIB  # of all at one node
BLOBS_SPARE_BYTES: Final = 256 * MIB  # that they leave free: the journal is on the same disk
BLOBS: Final = 262_144  # at one node: half a gigabyte at the least
BLOB_PART_BYTES: Final = 64 * KIB  # goes between two heartbeats of the log on a slow link
BLOB_WINDOW_BYTES: Final = 128 * KIB  # on its way to or from one node: 0.25 s of a slow link
BLOB_WINDOW_PARTS: Final = 32  # of the questions that a link has
BLOB_FETCHES: Final = 4  # at the same time, kept in memory
BLOBS_COMING: Final = 32  # parts of which came, and not yet all
BLOBS_COMING_PER_NODE: Final = 8
BLOBS_TRAILING_BYTES: Final = 64 * MIB  # on their way to more voters than must have them
BLOB_STALL_S: Final = 30.0  # after the last part that came
BLOB_ANSWER_S: Final = 5.0  # for one part: with its sync, and what is ahead of it
BLOB_PUT_S: Final = 10.0  # for a small one; more by SLOW_LINK_BYTES_PER_S
OTHERS_ASKED: Final = 16  # nodes without a vote that are asked for a blob, or how a job ended
ENDINGS_AT_ONCE: Final = 4  # questions of one node of that kind
ENDING_ANSWER_S: Final = 2.0  # of one node
ENDING_S: Final = 8.0  # of all that are asked, one after the other
ENDING_BYTES: Final = 64 * KIB
BLOB_GRACE_S: Final = 600.0  # from being stored until a command names it
BLOB_KEPT_S: Final = 24 * 3600  # of the record clock, after it was last named
BLOB_LOOK_S: Final = 300.0  # between looks at what is named, while that changes
BLOB_MISSING_S: Final = 30.0  # the same while something is missing here
BLOB_HEAL_BYTES_PER_S: Final = 8 * MIB  # of what is missing, and re-copied

# --- voters (consensus/voters.py)
FIVE_VOTERS_FROM: Final = 7  # machines that may have a vote
REPLACE_VOTER_AFTER_S: Final = 600.0  # a failed one
REPLACE_SLEEPER_AFTER_S: Final = 12 * 3600.0  # a night's sleep is no failure
VOTER_SWAP_EVERY_S: Final = 600.0  # steadier machines take over at leisure
STEADY_UPTIME_S: Final = 24 * 3600.0
STEADY_SYNC_S: Final = 0.05  # p99 of making something durable

# --- the journal (consensus/journal/DESIGN.md, proto/journal.md)
JOURNAL_SEGMENT_BYTES: Final = 8 * MIB  # past it the next segment is begun
JOURNAL_BLOCK_BYTES: Final = 2 * MIB  # what one sync makes durable; more takes several
JOURNAL_ENTRY_BYTES: Final = 1 * MIB  # the data of an entry
JOURNAL_HEADER_BYTES: Final = 4 * KIB  # of a segment or a snapshot

# --- the history of finished jobs (jobs/DESIGN.md)
HISTORY_ROWS: Final = 1_000_000
HISTORY_BYTES: Final = 2048 * MIB  # in its file: small results are in it
HISTORY_AGE_S: Final = 90 * 24 * 3600.0
HISTORY_BATCH_ROWS: Final = 1_000  # in one transaction
HISTORY_BATCH_S: Final = 1.0  # how long the first of a batch waits for others
HISTORY_PENDING_ROWS: Final = 20_000  # finished and not yet written: about 20 MB
HISTORY_PENDING_BYTES: Final = 64 * MIB  # of their results
HISTORY_TRIM_ROWS: Final = 1_000  # in one transaction, so that writing waits for little
HISTORY_TRIM_S: Final = 3600.0  # between looks for rows that are too old
HISTORY_RETRY_S: Final = 60.0  # after a disk that was full
HISTORY_PAGE_ROWS: Final = 1_000
HISTORY_TEXT_CHARS: Final = 1024  # of an error, or the reason of an attempt
HISTORY_ATTEMPTS: Final = 32  # that are kept of one job, the last ones

# --- traces of requests that are no jobs (jobs/DESIGN.md); TRACE_BYTES, TRACES_PER_COMMAND below
TRACE_BATCH_S: Final = 1.0  # from the first of a batch until it is written down
TRACES_FRESH: Final = 4096  # kept meanwhile; past it they are only counted
TRACE_TEXT_CHARS: Final = 128  # of a path, or a model's name
TRACE_SPOOL_BATCHES: Final = 1024  # kept on the disk while there is no majority: 16 MiB
TRACE_RETRY_S: Final = 10.0  # between tries while there is none
REQUESTS_HISTORY_BYTES: Final = 1024 * MIB  # of their history; rows and age as of the jobs'

# --- lists that grow by use
API_KEYS: Final = 256
ALIASES: Final = 1024
CONFIG_BYTES: Final = 1 * MIB
LOG_SOURCES: Final = 1024
LOG_PER_SOURCE_S: Final = 60.0

# --- the record (record/DESIGN.md); what a command may hold never changes within its version
COMMAND_BYTES: Final = 32 * KIB
INLINE_BYTES: Final = 4 * KIB  # of a request or a result in the log; more is a blob, named by hash
SESSION_RESULTS: Final = 1024  # of one client, that it has not confirmed to have
CLOCK_STEP_S: Final = 3600  # of the record clock, without a person's consent
POLICIES: Final = 64
CERTIFICATES_PER_NODE: Final = 4
TRACE_BYTES: Final = 16 * KIB
TRACES_PER_COMMAND: Final = 256
JOBS_LIVE: Final = 20_000
JOBS_QUEUED: Final = 10_000  # past it new ones are refused; those that come back are not
JOBS_DEAD: Final = 1000  # kept for a look and a retry
JOB_DEAD_S: Final = 7 * 24 * 3600
WEBHOOKS: Final = 4096  # jobs with one that live, and ends that are still to be told
WEBHOOK_KEPT_S: Final = 24 * 3600  # an end, told or not
RESULTS_KEPT: Final = 20_000  # of finished jobs that are blobs, named for BLOB_KEPT_S
JOB_ATTEMPTS: Final = 10
JOB_ATTEMPTS_KEPT: Final = 16  # on record; releases do not count as attempts
JOB_RUNS_TOLD: Final = 8  # that one answer took, the last ones
JOB_KEYS: Final = 16  # idempotency keys that found one job by its dedupe key
JOB_PAUSE_S: Final = 3600
JOB_WEBHOOK_CHARS: Final = 1024
LEASE_MIN_S: Final = 1
LEASE_MAX_S: Final = 3600
CLAIMS_PER_COMMAND: Final = 16
CLAIM_MODELS: Final = 64
QUEUES: Final = 256
QUEUE_NAME_CHARS: Final = 64
DEDUPE_CHARS: Final = 128
IDEMPOTENCY_KEYS: Final = 200_000
IDEMPOTENCY_KEY_S: Final = 24 * 3600
IDEMPOTENCY_KEY_CHARS: Final = 255
SWEEP_ROWS: Final = 256  # that one command ends because their time is over
