"""Predicted time to finish a request at a holder.  Pure.

Prediction = round trip + wait for a slot + load if not resident + prefill + decode.  Rates are
what the holder measured and told (`ModelLoad`); where nothing was measured yet, priors from the
model's size stand in: decoding reads every weight once a token, so it is memory bandwidth / size.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshd.inference import Kind, ModelLoad
from meshd.routing.catalogue import Target
from meshd.routing.demand import Demand

PRIOR_BANDWIDTH_BYTES_PER_S = 100e9
"""Unified memory of a base Apple M-series, about; a desktop CPU has half, a good GPU ten times."""
PRIOR_LOAD_BYTES_PER_S = 1.5e9
"""NVMe read into memory."""
PRIOR_LOAD_FIXED_S = 0.5
PRIOR_DECODE_MAX_TOKENS_PER_S = 200.0
PRIOR_DECODE_TOKENS_PER_S = 30.0
"""Where not even the size is known."""
PREFILL_OVER_DECODE = 10.0
"""Prefill is compute-bound and batched; ten is on the low side for every engine."""
SUSPECT_PENALTY_S = 5.0
"""A suspected node may be gone: what finding that out would cost, about."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A holder and what is known of it right now."""

    target: Target
    load: ModelLoad
    """As last told by the holder, plus this entry's own dispatches since."""
    rtt_s: float = 0.0
    local: bool = False
    suspect: bool = False


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """Where the time would go, in seconds."""

    rtt_s: float
    wait_s: float
    load_s: float
    prefill_s: float
    decode_s: float
    penalty_s: float = 0.0

    @property
    def total_s(self) -> float:
        """When the last token would be here."""
        return (
            self.rtt_s + self.wait_s + self.load_s + self.prefill_s + self.decode_s + self.penalty_s
        )

    @property
    def first_token_s(self) -> float:
        """Load and prefill: what the first-token watchdog is scaled by."""
        return self.load_s + self.prefill_s


def predict(candidate: Candidate, demand: Demand) -> Prediction:
    """When would this holder have finished this request?"""
    load, size = candidate.load, max(0, candidate.target.model.size_bytes)
    decode_rate = _told(load.decode_tokens_per_s) or _prior_decode(size)
    prefill_rate = _told(load.prefill_tokens_per_s) or decode_rate * PREFILL_OVER_DECODE
    prefill_s = demand.prompt_tokens / prefill_rate
    decode_s = demand.output_tokens / decode_rate
    resident = load.resident or candidate.target.model.resident
    load_s = 0.0 if resident else (_told(load.load_s) or _prior_load(size))
    slots = max(1, load.slots or candidate.target.slots)
    ahead = max(0, load.running) + max(0, load.queued) + 1 - slots
    # A slot frees up, on average, every service time / slots; those ahead of us go first.
    wait_s = max(0, ahead) * (prefill_s + decode_s) / slots
    return Prediction(
        rtt_s=candidate.rtt_s,
        wait_s=wait_s,
        load_s=load_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        penalty_s=SUSPECT_PENALTY_S if candidate.suspect else 0.0,
    )


def _told(number: float) -> float:
    """A holder's own figure, 0 (not known) if it is none that makes sense (also NaN)."""
    return number if 1e-3 <= number <= 1e9 else 0.0


def fitting(candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
    """Drop holders that cannot do it; those of too small a context only while another fits.

    What is not known (no capabilities told, context 0) is not held against a holder.  Where nobody
    claims to be able, all are asked: Ollama makes embeddings with models that it does not list as
    able to, and an engine's own refusal says why.
    """
    able = [c for c in candidates if not _lacks(c, demand)] or list(candidates)
    roomy = [
        c
        for c in able
        if not 0 < c.target.model.context_tokens < demand.context_tokens  # 0: not known
    ]
    able = roomy or able
    if demand.kind is Kind.EMBED:
        able = _most_common_digest(able)
    return able


def _lacks(candidate: Candidate, demand: Demand) -> bool:
    known = candidate.target.model.capabilities
    return bool(known) and not demand.needs.issubset(known)


def _most_common_digest(candidates: list[Candidate]) -> list[Candidate]:
    """Vectors of different models must not mix: keep the digest most holders have."""
    counts: dict[str, int] = {}
    for c in candidates:
        counts[c.target.model.digest] = counts.get(c.target.model.digest, 0) + 1
    if len(counts) < 2:
        return candidates
    best = max(sorted(counts), key=counts.__getitem__)
    return [c for c in candidates if c.target.model.digest == best]


def _prior_decode(size_bytes: int) -> float:
    if not size_bytes:
        return PRIOR_DECODE_TOKENS_PER_S
    return min(PRIOR_DECODE_MAX_TOKENS_PER_S, PRIOR_BANDWIDTH_BYTES_PER_S / size_bytes)


def _prior_load(size_bytes: int) -> float:
    return PRIOR_LOAD_FIXED_S + size_bytes / PRIOR_LOAD_BYTES_PER_S
