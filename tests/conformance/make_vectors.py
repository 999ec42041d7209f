"""Writes proto/vectors anew: `python -m tests.conformance.make_vectors`.

Vectors are golden: they are made once, read by a person, and from then on the code is held to them.
A change of one that was released is a change of the protocol (proto/README.md).
"""

from __future__ import annotations

from tests.conformance.jsonform import DERIVED, INVALID, TRANSCRIPTS, VALID, write
from tests.conformance.samples import (
    answers,
    derived,
    gossip,
    journal,
    log,
    members,
    messages,
    record,
    values,
)


def main() -> None:
    documents = {
        "values": ("Canonical msgpack (frame.md).", values.values, values.bad_values),
        "frames": ("Length-prefixed frames (frame.md).", values.frames, values.bad_frames),
        "control": (
            "Payloads of frames on ALPN meshd/1 (peer.md): [type, request id, body].",
            messages.control_messages, messages.bad_control_messages,
        ),
        "join": (
            "Payloads of frames on ALPN meshd-join/1 (join.md): [type, body].",
            messages.join_messages, messages.bad_join_messages,
        ),
        "answer": (
            "Bodies of answers to POST /mesh/v1/serve (peer.md).",
            answers.answers, answers.bad_answers,
        ),
        "serve": (
            "Bodies of forwarded requests (peer.md).",
            answers.forwarded, answers.bad_forwarded,
        ),
        "said": (
            "What a run has said, asked and answered on the peer link (peer.md).",
            answers.said, answers.bad_said,
        ),
        "gossip": (
            "Packets of gossip and the claims in them (gossip.md).",
            gossip.gossip_packets, gossip.bad_gossip,
        ),
        "members": (
            "Signed member lists (join.md).", members.member_lists, members.bad_member_lists,
        ),
        "datagrams": ("Sealed datagrams (gossip.md).", gossip.datagrams, gossip.bad_datagrams),
        "journal": (
            "Files of a journal (journal.md).", journal.journals, journal.bad_journals,
        ),
        "log": (
            "Messages about the log (log.md): data of RecordMessage.",
            log.log_messages, log.bad_log_messages,
        ),
        "commands": (
            "Commands of the record (record.md).", record.commands, record.bad_commands,
        ),
        "states": ("Frozen states of the record (record.md).", record.states, record.bad_states),
    }  # fmt: skip
    for name, (about, valid, invalid) in documents.items():
        write(VALID / f"{name}.json", {"about": about, "vectors": valid()})
        write(INVALID / f"{name}.json", {"about": about, "vectors": invalid()})
    write(TRANSCRIPTS / "record.json", record.log())
    about = "What is computed, not sent: ids, keys, proofs, digits (join.md, gossip.md)."
    write(DERIVED / "derived.json", {"about": about, "vectors": derived.derived()})


if __name__ == "__main__":
    main()
