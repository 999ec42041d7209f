"""A mesh whose CA is followed by another: what nodes show and believe, on disk and in TLS."""

from __future__ import annotations

import ssl
from pathlib import PurePosixPath

import pytest

from meshd import limits
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    SERIAL_BYTES,
    Authority,
    CertificateRefused,
    FormerCa,
    IdentityStore,
    Keyring,
    MeshIdentity,
    StoreDamaged,
    read_ca_certificate,
)
from meshd.identity.certificates import read_link
from meshd.machine.tls import peer_contexts
from meshd.ports import Alpn, Credentials
from meshd.testing.disk import MemoryDisk
from tests.joins import NOW_UNIX_S, make_authority, make_key

SERIAL = bytes(SERIAL_BYTES)
DATA = PurePosixPath("/data")
Cas = tuple[Authority, tuple[FormerCa, ...]]
"""A CA, and those before it."""


def follow(before: Cas, number: int) -> Cas:
    ca, former = before
    key = make_key(f"ca {number}")
    made = ca.hand_over(key, serials=(SERIAL, SERIAL), now_unix_s=NOW_UNIX_S)
    step = FormerCa(ca.certificate_der, made.link_der)
    return Authority(key, made.certificate_der), (step, *former)


FIRST: Cas = (make_authority(), ())
SECOND = follow(FIRST, 2)
THIRD = follow(SECOND, 3)


def member(name: str, certified: Cas, knows: Cas) -> MeshIdentity:
    """A node with a certificate of one CA that knows of all up to another."""
    ca, former = knows
    return MeshIdentity(
        name=name,
        mesh_name="home",
        certificate_der=certified[0].issue(
            make_key(name).public, serial=SERIAL, now_unix_s=NOW_UNIX_S
        ),
        ca_certificate_der=ca.certificate_der,
        keyring=Keyring.generate(b"k" * GOSSIP_KEY_BYTES),
        authority=None,
        former_cas=former,
    )


def test_another_ca_is_of_the_same_mesh_and_vouched_for_by_the_one_before() -> None:
    second = SECOND[0]
    assert second.mesh == FIRST[0].mesh != second.public.id
    assert read_ca_certificate(second.certificate_der).mesh == FIRST[0].mesh
    (step,) = SECOND[1]
    assert read_link(step.link_der, former=FIRST[0].public) == second.public
    with pytest.raises(CertificateRefused, match="not certified by the CA before"):
        read_link(step.link_der, former=second.public)


def test_a_node_knows_whether_the_ca_of_now_vouches_for_it() -> None:
    one = member("one", FIRST, FIRST)
    assert one.is_current
    ca, former = SECOND
    later = one.succeeded(ca.certificate_der, former)
    assert not later.is_current
    assert later.mesh == one.mesh
    renewed = ca.issue(make_key("one").public, serial=SERIAL, now_unix_s=NOW_UNIX_S)
    assert later.renewed(renewed).is_current


def test_cas_that_do_not_follow_each_other_are_refused() -> None:
    other = follow((make_authority("elsewhere"), ()), 9)
    for ca, former in (
        (FIRST[0], SECOND[1]),
        (THIRD[0], SECOND[1]),
        (THIRD[0], THIRD[1][::-1]),
        (other[0], SECOND[1]),
        (SECOND[0], other[1]),
    ):
        with pytest.raises(CertificateRefused):
            member("one", FIRST, FIRST).succeeded(ca.certificate_der, former)


def test_all_cas_are_kept_on_disk_and_a_certificate_of_any_of_them_is_good_there() -> None:
    disk = MemoryDisk()
    store = IdentityStore(disk, DATA)
    one = member("one", FIRST, THIRD)
    store.save_key(make_key("one"))
    store.save_mesh(one, b"members")
    back = store.load_mesh(make_key("one"))
    assert back is not None
    assert (back.ca, back.former_cas) == (one.ca, one.former_cas)
    assert back.chain_pem() == one.chain_pem()
    path = DATA / one.mesh / "ca.crt"
    blocks = disk.files[path].count(b"BEGIN CERTIFICATE")
    assert blocks == 1 + 2 * len(THIRD[1])
    disk.files[path] = disk.files[path].rpartition(b"-----BEGIN")[0]
    with pytest.raises(StoreDamaged, match=r"ca\.crt"):
        store.load_mesh(make_key("one"))


def test_the_key_of_the_ca_of_now_alone_makes_an_authority() -> None:
    store = IdentityStore(MemoryDisk(), DATA)
    one = member("one", FIRST, SECOND)
    store.save_key(make_key("one"))
    store.save_mesh(one, b"members")
    for key, wanted in ((FIRST[0].key, None), (SECOND[0].key, SECOND[0].public)):
        store.ca_keys(one.mesh).keep(key)
        back = store.load_mesh(make_key("one"))
        assert back is not None
        assert (back.authority.public if back.authority else None) == wanted


def test_so_many_former_cas_are_remembered() -> None:
    cas = FIRST
    for number in range(2, limits.FORMER_CAS + 4):
        cas = follow(cas, number)
    assert len(member("one", cas, cas).former_cas) == limits.FORMER_CAS


# --- TLS


def credentials(one: MeshIdentity) -> Credentials:
    key = make_key(one.name)
    return Credentials(
        node=key.public.node,
        mesh=one.mesh,
        certificate_pem=one.chain_pem(),
        private_key_pem=key.pem(),
        ca_pem=one.anchors_pem(),
        check_peer=lambda der: key.public.node,
    )


def shake_hands(server: MeshIdentity, client: MeshIdentity) -> None:
    """OpenSSL's handshake, in memory.  Raises ssl.SSLError."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialler = peer_contexts(credentials(client)).member_client[Alpn.CONTROL]
    acceptor = peer_contexts(credentials(server)).member_server
    ends = [
        dialler.wrap_bio(to_client, to_server, server_hostname="member"),
        acceptor.wrap_bio(to_server, to_client, server_side=True),
    ]
    done: set[ssl.SSLObject] = set()
    while len(done) < len(ends):
        before = (to_client.pending, to_server.pending, len(done))
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        assert before != (to_client.pending, to_server.pending, len(done)), "it goes on"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # (whose certificate, which CA it knows of) on either side
        ((FIRST, FIRST), (SECOND, SECOND)),  # the first has not heard of it yet
        ((FIRST, FIRST), (THIRD, THIRD)),  # it slept through two changes
        ((FIRST, SECOND), (SECOND, SECOND)),  # it has heard, and not renewed
        ((FIRST, THIRD), (THIRD, THIRD)),
        ((FIRST, SECOND), (FIRST, FIRST)),  # both certificates are of the first CA
        ((SECOND, SECOND), (FIRST, THIRD)),
        ((SECOND, THIRD), (THIRD, THIRD)),
    ],
)
def test_members_find_a_chain_in_tls_whoever_slept_through_a_change(
    one: tuple[Cas, Cas], other: tuple[Cas, Cas]
) -> None:
    a, b = member("a", *one), member("b", *other)
    shake_hands(a, b)
    shake_hands(b, a)


def test_a_ca_that_none_of_the_meshs_has_vouched_for_is_no_chain() -> None:
    elsewhere: Cas = (make_authority("elsewhere"), ())
    with pytest.raises(ssl.SSLError):
        shake_hands(member("a", THIRD, THIRD), member("b", elsewhere, elsewhere))
