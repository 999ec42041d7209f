"""What is wrong with a link, and how faults on it add up."""

from __future__ import annotations

from random import Random

from meshd_chaos.links import CUT, Link, Links, Trouble


def link() -> Link:
    return Link("a", "b", Random(1))


def test_a_link_without_faults_is_there_at_once_and_loses_nothing() -> None:
    well = link()
    assert well.is_well
    assert well.stream_gate.is_open
    assert (well.delay_s(), well.takes_s(10**9), well.datagram_delay_s()) == (0, 0, 0)


def test_faults_on_one_link_add_up_and_end_one_by_one() -> None:
    slow, lossy = Trouble(latency_s=1, bytes_per_s=100), Trouble(latency_s=2, loss=1)
    both = link()
    both.add(slow)
    both.add(lossy)
    assert (both.delay_s(), both.takes_s(200), both.datagram_delay_s()) == (3, 2, None)
    both.remove(lossy)
    assert (both.delay_s(), both.datagram_delay_s()) == (1, 1)
    both.remove(slow)
    assert both.is_well


def test_a_link_that_two_faults_cut_is_open_when_both_are_over() -> None:
    twice = link()
    twice.add(CUT)
    twice.add(CUT)
    twice.remove(CUT)
    assert not twice.stream_gate.is_open
    twice.remove(CUT)
    assert twice.stream_gate.is_open
    twice.remove(CUT)  # healed before
    assert twice.is_well


def test_jitter_and_loss_come_from_the_seed() -> None:
    def drawn(seed: int) -> list[float | None]:
        some = Links(seed)["a", "b"]
        some.add(Trouble(latency_s=1, jitter_s=1, loss=0.5))
        return [some.datagram_delay_s() for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)
    arrived = [delay_s for delay_s in drawn(1) if delay_s is not None]
    assert 0 < len(arrived) < 50
    assert all(1 <= delay_s <= 2 for delay_s in arrived)


def test_the_links_around_a_machine_lead_to_and_from_everyone_else() -> None:
    links = Links(1)
    assert sorted(map(repr, links.around("a", {"a", "b", "c"}))) == [
        "a -> b",
        "a -> c",
        "b -> a",
        "c -> a",
    ]
    assert [repr(one) for one in links.between({"a"}, {"b", "a"})] == ["a -> b"]
