"""Names, majorities, and how long what nothing names is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.jobs.blob_plan import Unnamed, digest_named, digest_of, file_name, is_blob, majority

DAY_MS = limits.BLOB_KEPT_S * 1000
NOW_MS = 1_790_000_000_000

digests = st.binary(min_size=32, max_size=32)
times = st.integers(min_value=0, max_value=2**53)


def test_a_file_is_called_by_its_digest_and_nothing_else_is_taken_for_one() -> None:
    digest = digest_of(b"blob")
    assert digest_named(file_name(digest)) == digest
    for name in ("", "unnamed", ".x.new", file_name(digest)[:-1], file_name(digest).upper(),
                 file_name(digest) + "\n", file_name(digest) + ".part"):  # fmt: skip
        assert digest_named(name) is None


def test_only_what_the_log_does_not_take_is_a_blob() -> None:
    assert not is_blob(limits.INLINE_BYTES)
    assert is_blob(limits.INLINE_BYTES + 1)


@pytest.mark.parametrize("voters", range(1, 8))
def test_two_majorities_always_have_one_in_common(voters: int) -> None:
    assert 2 * majority(voters) > voters
    assert 2 * (majority(voters) - 1) <= voters


@given(st.dictionaries(digests, times, max_size=20))
def test_times_come_back_from_disk_as_they_were(since_ms: dict[bytes, int]) -> None:
    unnamed = Unnamed()
    for digest, at_ms in sorted(since_ms.items(), key=lambda item: item[1]):
        unnamed.look([*(d for d in since_ms if since_ms[d] < at_ms), digest], at_ms)
    again = Unnamed(unnamed.to_bytes())
    assert again.to_bytes() == unnamed.to_bytes()
    assert again.over(2**60) == unnamed.over(2**60)


@given(st.binary(max_size=200))
def test_of_a_file_that_is_none_nothing_is_taken(data: bytes) -> None:
    assert len(Unnamed(data)) == 0
    whole = Unnamed()
    whole.look([bytes(32), bytes([1]) * 32], NOW_MS)
    assert len(Unnamed(whole.to_bytes()[:-1])) == 0


def test_a_time_begins_with_the_first_look_and_ends_a_day_later() -> None:
    unnamed, blob, other = Unnamed(), digest_of(b"1"), digest_of(b"2")
    assert unnamed.look([blob], NOW_MS)
    assert not unnamed.look([blob], NOW_MS + 10)
    assert unnamed.look([blob, other], NOW_MS + 20)
    assert unnamed.over(NOW_MS + DAY_MS - 1) == []
    assert unnamed.over(NOW_MS + DAY_MS) == [blob]
    assert unnamed.over(NOW_MS + DAY_MS + 20) == [blob, other]


def test_a_time_begins_anew_if_it_was_named_or_stored_in_between() -> None:
    unnamed, blob = Unnamed(), digest_of(b"1")
    for interrupt in (lambda: unnamed.look([], NOW_MS + 1), lambda: unnamed.touch(blob)):
        unnamed.look([blob], NOW_MS)
        assert interrupt()
        assert not unnamed.touch(blob)
        unnamed.look([blob], NOW_MS + 2)
        assert unnamed.over(NOW_MS + DAY_MS) == []
        unnamed.look([], NOW_MS + 3)


def test_a_clock_that_was_set_back_for_good_keeps_nothing_for_ever() -> None:
    unnamed, blob = Unnamed(), digest_of(b"1")
    unnamed.look([blob], NOW_MS + 1000 * DAY_MS)
    unnamed.look([blob], NOW_MS)
    assert unnamed.over(NOW_MS + DAY_MS) == [blob]
