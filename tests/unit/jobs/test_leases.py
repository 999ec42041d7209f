"""When leases end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd.jobs.leases import AGAIN_S, Leases
from meshd.record.commands_jobs import RequestFields
from meshd.record.events import JobClaimed, JobReturned, LeaseRenewed
from meshd.record.job_rows import ClaimRow, JobRow
from tests.unit.record.logs import id_of

A = id_of("attic")


def claimed(job: int, fence: int, lease_s: float = 10.0) -> JobClaimed:
    return JobClaimed(fence, job, fence, A, int(lease_s * 1000))


def due(leases: Leases, now: float) -> list[tuple[int, int]]:
    return list(leases.due(now))


def test_a_lease_is_over_at_its_time_and_due_until_its_claim_has_ended() -> None:
    leases = Leases()
    leases.happened(claimed(1, 5), now=100.0)
    assert leases.next_due_at() == 110.0
    assert due(leases, 109.9) == []
    assert due(leases, 110.0) == [(1, 5)]
    assert due(leases, 110.0) == []
    assert leases.next_due_at() == 110.0 + AGAIN_S
    assert due(leases, 110.0 + AGAIN_S) == [(1, 5)]
    leases.happened(JobReturned(6, 1, 5), now=112.5)
    assert leases.next_due_at() is None
    assert due(leases, 200.0) == []


def test_what_is_renewed_while_the_end_of_another_is_written_is_not_over() -> None:
    leases = Leases()
    leases.happened(claimed(1, 5), now=100.0)
    leases.happened(claimed(2, 6), now=100.0)
    over = leases.due(110.0)
    assert next(over) == (1, 5)
    leases.happened(LeaseRenewed(9, 2, 6, 10_000), now=110.0)
    assert list(over) == []


def test_a_renewal_counts_from_when_it_was_applied() -> None:
    leases = Leases()
    leases.happened(claimed(1, 5), now=100.0)
    leases.happened(LeaseRenewed(9, 1, 5, 4000), now=108.0)
    assert due(leases, 111.9) == []
    assert due(leases, 112.0) == [(1, 5)]


def test_what_was_given_back_and_claimed_again_has_the_new_fence() -> None:
    leases = Leases()
    leases.happened(claimed(1, 5), now=0.0)
    leases.happened(JobReturned(6, 1, 5), now=1.0)
    leases.happened(claimed(1, 7), now=2.0)
    assert due(leases, 12.0) == [(1, 7)]


def test_a_new_leader_counts_from_the_beginning() -> None:
    leases = Leases()
    leases.happened(claimed(1, 5), now=0.0)
    leases.begin([_row(2, 6)], now=50.0)
    assert due(leases, 59.9) == []
    assert due(leases, 60.0) == [(2, 6)]


def _row(job: int, fence: int) -> JobRow:
    claim = ClaimRow(node=A, fence=fence, lease_ms=10_000, claimed_unix_ms=0)
    return JobRow(
        id=job,
        request=RequestFields(digest=b"d" * 32, size_bytes=0),
        entry=A,
        accepted_unix_ms=0,
        max_attempts=3,
        queue="q",
        claim=claim,
    )


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(1, 50))))
def test_each_claim_that_nobody_ends_is_due_again_and_again(
    steps: list[tuple[int, int, int]],
) -> None:
    """Against the plainest way to do it."""
    leases, plain = Leases(), dict[int, tuple[int, float]]()
    now = 0.0
    for fence, (job, what, passing) in enumerate(steps, 1):
        now += passing
        expected = sorted((j, f) for j, (f, at) in plain.items() if at <= now)
        assert sorted(leases.due(now)) == expected
        for j, f in expected:
            plain[j] = (f, now + AGAIN_S)
        if what == 0:
            leases.happened(claimed(job, fence), now)
            plain[job] = (fence, now + 10.0)
        elif what == 1 and job in plain:
            leases.happened(LeaseRenewed(fence, job, plain[job][0], 20_000), now)
            plain[job] = (plain[job][0], now + 20.0)
        elif what == 2:
            leases.happened(JobReturned(fence, job, plain.get(job, (0, 0.0))[0]), now)
            plain.pop(job, None)
        assert len(leases) == len(plain)
        assert leases.next_due_at() == min((at for _, at in plain.values()), default=None)
