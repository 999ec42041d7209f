"""Where members may be found: sources, order, bounds."""

from __future__ import annotations

import msgspec

from meshd import limits
from meshd.ids import Address
from meshd.peers.addresses import AddressBook, Kept, Source, advertised
from tests.unit.peers.rig import A, B

HOME, OFFICE, TENT = (Address(f"10.0.0.{n}", 11436) for n in (1, 2, 3))


def test_better_sources_come_first_and_no_address_twice() -> None:
    book = AddressBook()
    book.put(A, [TENT, HOME], Source.SIGHTED)
    book.put(A, [OFFICE], Source.LISTED)
    book.put(A, [HOME], Source.ANNOUNCED)
    assert book.of(A) == [HOME, OFFICE, TENT]


def test_a_source_replaces_what_it_said_and_nothing_that_others_said() -> None:
    book = AddressBook()
    book.put(A, [HOME], Source.LISTED)
    book.put(A, [HOME], Source.ANNOUNCED)
    book.put(A, [OFFICE], Source.ANNOUNCED)
    assert book.of(A) == [OFFICE, HOME], "the list still names the old one"
    book.put(A, [], Source.LISTED)
    assert book.of(A) == [OFFICE]


def test_whatever_is_said_the_book_is_bounded_and_the_best_survive() -> None:
    book = AddressBook()
    flood = [Address("10.9.9.9", port) for port in range(1, 1000)]
    for source in (Source.SIGHTED, Source.LISTED):
        book.put(A, flood, source)
    book.put(A, [HOME], Source.ANNOUNCED)
    assert len(book.of(A)) == limits.ADDRESSES_PER_NODE
    assert book.of(A)[0] == HOME


def test_who_is_no_member_is_forgotten() -> None:
    book = AddressBook()
    book.put(A, [HOME], Source.LISTED)
    book.put(B, [OFFICE], Source.LISTED)
    book.keep_only({B})
    assert (book.of(A), book.of(B)) == ([], [OFFICE])


def test_where_it_was_reached_comes_first_until_another_address_works() -> None:
    book = AddressBook()
    book.put(A, [HOME, OFFICE], Source.ANNOUNCED)
    book.reached(A, TENT)
    assert book.of(A) == [TENT, HOME, OFFICE]
    book.put(A, [HOME], Source.ANNOUNCED)
    assert book.of(A)[0] == TENT, "it never announced that one (NAT): it says nothing of it"
    book.reached(A, HOME)
    assert book.of(A) == [HOME]


def test_where_it_was_reached_is_forgotten_when_it_says_that_it_has_moved() -> None:
    book = AddressBook()
    book.put(A, [HOME], Source.ANNOUNCED)
    book.reached(A, HOME)
    book.put(A, [OFFICE], Source.ANNOUNCED)
    assert book.of(A) == [OFFICE]


def test_what_was_kept_on_disk_is_the_weakest_word_but_for_where_it_was_reached() -> None:
    book = AddressBook()
    book.put(A, [HOME, TENT], Source.ANNOUNCED)
    book.put(B, [HOME], Source.LISTED)
    book.reached(B, TENT)
    later = AddressBook()
    later.restore(msgspec.json.decode(msgspec.json.encode(book.export()), type=dict[str, Kept]))
    assert (later.of(A), later.of(B)) == ([HOME, TENT], [TENT, HOME])
    for node in (A, B):
        later.put(node, [OFFICE], Source.LISTED)
    assert (later.of(A)[0], later.of(B)[0]) == (OFFICE, TENT)


def test_others_are_told_all_of_a_machine_unless_its_config_says_otherwise() -> None:
    hosts = ["192.168.1.7", "fd00::7"]
    assert advertised([], hosts, 11436) == [Address(host, 11436) for host in hosts]
    forwarded = Address("203.0.113.7", 4000)
    assert advertised([forwarded, Address("203.0.113.8", 0)], hosts, 11436) == [
        forwarded,
        Address("203.0.113.8", 11436),
    ]
