"""Who a certificate admits, and who not."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from meshd import limits
from meshd.errors import NotAdmitted
from meshd.identity import (
    SERIAL_BYTES,
    Authority,
    CertificateRefused,
    KeyDamaged,
    PrivateKey,
    Unvouched,
    check_peer,
    from_pem,
    read_ca_certificate,
    read_certificate,
    to_pem,
)
from meshd.ids import NodeId
from tests.joins import NOW_UNIX_S, make_authority, make_key

YEAR_S = 365 * 86_400
AUTHORITY = make_authority()
KEY = make_key("node")
CERTIFICATE = AUTHORITY.issue(KEY.public, serial=bytes(SERIAL_BYTES), now_unix_s=NOW_UNIX_S)


def check(
    certificate: bytes = CERTIFICATE,
    *,
    registered: dict[NodeId, bytes] | None = None,
    removed: frozenset[NodeId] = frozenset(),
    now_unix_s: float = NOW_UNIX_S,
    authority: Authority = AUTHORITY,
) -> NodeId:
    return check_peer(
        certificate,
        mesh=authority.mesh,
        ca_public_key=authority.public,
        registered=(registered or {}).get,
        removed=removed.__contains__,
        now_unix_s=now_unix_s,
    )


def refused(**kwargs: Any) -> Unvouched:
    with pytest.raises(CertificateRefused) as caught:
        check(**kwargs)
    assert isinstance(caught.value, NotAdmitted)
    return caught.value.reason


REGISTERED = {KEY.public.node: KEY.public.hash}


def forged(
    *,
    key: Any = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
    names: list[x509.GeneralName] | None = None,
    change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] = lambda b: b,
    algorithm: Any = None,
) -> bytes:
    """A certificate that is right but for what is said."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    moment = datetime.datetime.fromtimestamp(NOW_UNIX_S, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key or KEY.public.raw())
        .serial_number(7)
        .not_valid_before(moment - datetime.timedelta(days=1))
        .not_valid_after(moment + datetime.timedelta(days=1))
    )
    if names is None:
        names = [uri(f"meshd://{AUTHORITY.mesh}/{KEY.public.node}")]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = change(builder).sign(signer or AUTHORITY.key.raw(), algorithm or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


# --- who is let in


def test_the_ca_vouches_for_a_node_that_the_registry_has_not_seen() -> None:
    assert check() == KEY.public.node


def test_a_forged_certificate_that_is_right_in_everything_is_let_in() -> None:
    assert check(forged()) == KEY.public.node  # so that the refusals below mean something


def test_a_registered_key_is_let_in_with_an_expired_certificate() -> None:
    assert check(registered=REGISTERED, now_unix_s=NOW_UNIX_S + 2 * YEAR_S) == KEY.public.node


def test_a_registered_key_is_let_in_when_a_clock_is_years_behind() -> None:
    assert check(registered=REGISTERED, now_unix_s=0.0) == KEY.public.node


def test_a_certificate_is_good_for_a_clock_a_day_behind_and_for_a_year() -> None:
    certificate = read_certificate(CERTIFICATE)
    assert certificate.not_before_unix_s == NOW_UNIX_S - 86_400
    assert certificate.not_after_unix_s == NOW_UNIX_S - 86_400 + YEAR_S
    assert check(now_unix_s=NOW_UNIX_S - 86_400) == KEY.public.node
    assert certificate.renew_unix_s == NOW_UNIX_S - 86_400 + YEAR_S // 2


# --- who is not


def test_a_stranger_is_refused_once_its_certificate_has_ended() -> None:
    assert refused(now_unix_s=NOW_UNIX_S + YEAR_S) is Unvouched.EXPIRED


def test_a_stranger_is_refused_before_its_certificate_begins() -> None:
    assert refused(now_unix_s=NOW_UNIX_S - 2 * 86_400) is Unvouched.NOT_YET_VALID


def test_a_removed_node_is_refused_even_if_everything_else_vouches_for_it() -> None:
    gone = frozenset([KEY.public.node])
    assert refused(removed=gone) is Unvouched.REMOVED
    assert refused(removed=gone, registered=REGISTERED) is Unvouched.REMOVED


def test_another_meshs_node_is_refused() -> None:
    other = make_authority("other")
    certificate = other.issue(KEY.public, serial=bytes(SERIAL_BYTES), now_unix_s=NOW_UNIX_S)
    assert refused(certificate=certificate) is Unvouched.OTHER_MESH


def test_a_name_of_this_mesh_signed_by_another_key_is_refused() -> None:
    signer = make_key("forger").raw()
    assert refused(certificate=forged(signer=signer)) is Unvouched.NOT_SIGNED


def test_a_certificate_that_signs_itself_is_refused() -> None:
    assert refused(certificate=forged(signer=KEY.raw())) is Unvouched.NOT_SIGNED


def test_another_nodes_name_on_ones_own_key_is_refused() -> None:
    other = make_key("other").public.node
    certificate = forged(names=[uri(f"meshd://{AUTHORITY.mesh}/{other}")])
    assert refused(certificate=certificate) is Unvouched.NOT_ITS_ID


def test_a_key_that_differs_from_the_registered_one_is_refused() -> None:
    registered = {KEY.public.node: make_key("other").public.hash}
    assert refused(registered=registered) is Unvouched.NOT_ITS_ID


def test_a_member_cannot_vouch_for_another_node() -> None:
    member, newcomer = make_key("member"), make_key("newcomer")
    chained = forged(
        key=newcomer.public.raw(),
        signer=member.raw(),
        names=[uri(f"meshd://{AUTHORITY.mesh}/{newcomer.public.node}")],
    )
    known = {member.public.node: member.public.hash}
    assert refused(certificate=chained, registered=known) is Unvouched.NOT_SIGNED


def test_a_signature_with_another_hash_is_refused() -> None:
    assert refused(certificate=forged(algorithm=hashes.SHA384())) is Unvouched.NOT_SIGNED


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("example.org")],
        [uri(f"meshd://{AUTHORITY.mesh}/{KEY.public.node}")] * 2,
        [uri(f"meshd://{AUTHORITY.mesh}/{KEY.public.node}"), x509.DNSName("example.org")],
        [uri(f"meshd://{AUTHORITY.mesh}/{KEY.public.node}/more")],
        [uri(f"meshd://{AUTHORITY.mesh}/{KEY.public.node}\n")],
        [uri(f"https://{AUTHORITY.mesh}/{KEY.public.node}")],
        [uri(f"meshd://{AUTHORITY.mesh.upper()}/{KEY.public.node}")],
        [uri(f"meshd://{AUTHORITY.mesh}/")],
    ],
    ids=lambda names: str([str(name.value)[:12] for name in names]),
)
def test_a_certificate_without_exactly_one_name_of_a_node_is_refused(
    names: list[x509.GeneralName],
) -> None:
    assert refused(certificate=forged(names=names)) is Unvouched.UNREADABLE
    assert refused(certificate=forged(names=names), registered=REGISTERED) is Unvouched.UNREADABLE


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(12345, ec.SECP384R1()).public_key(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key(),
    ],
    ids=["P-384", "RSA"],
)
def test_a_key_of_another_kind_is_refused(key: Any) -> None:
    assert refused(certificate=forged(key=key)) is Unvouched.UNREADABLE


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"garbage", CERTIFICATE[:-1], CERTIFICATE + b"\0", to_pem(CERTIFICATE)],
    ids=["empty", "zero", "garbage", "cut", "longer", "pem"],
)
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    assert refused(certificate=data) is Unvouched.UNREADABLE


def test_a_certificate_over_the_limit_is_refused_before_it_is_parsed() -> None:
    def fatten(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        blob = bytes(limits.CERTIFICATE_BYTES)
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
        return builder.add_extension(x509.UnrecognizedExtension(oid, blob), critical=False)

    with pytest.raises(CertificateRefused, match="larger than"):
        check(forged(change=fatten))


def test_no_bit_of_a_certificate_can_be_flipped() -> None:
    for position in range(0, len(CERTIFICATE), 5):
        flipped = bytearray(CERTIFICATE)
        flipped[position] ^= 0x04
        with pytest.raises(CertificateRefused):
            check(bytes(flipped))


# --- the authority's own


def test_the_cas_certificate_admits_nobody() -> None:
    assert refused(certificate=AUTHORITY.certificate_der) is Unvouched.UNREADABLE


def test_the_mesh_id_is_a_hash_of_the_cas_key() -> None:
    assert read_ca_certificate(AUTHORITY.certificate_der).mesh == AUTHORITY.mesh


def test_a_nodes_certificate_is_not_taken_for_a_cas() -> None:
    with pytest.raises(CertificateRefused, match="not that of a certificate authority"):
        read_ca_certificate(CERTIFICATE)


def test_a_ca_certificate_that_another_key_signed_is_refused() -> None:
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    der = forged(
        key=make_key("x").public.raw(), change=lambda b: b.add_extension(constraints, critical=True)
    )
    with pytest.raises(CertificateRefused) as caught:
        read_ca_certificate(der)
    assert caught.value.reason is Unvouched.NOT_SIGNED


def test_an_authority_refuses_a_certificate_that_is_not_of_its_key() -> None:
    with pytest.raises(KeyDamaged):
        Authority(make_key("x"), AUTHORITY.certificate_der)


def test_certificates_survive_the_way_through_pem() -> None:
    assert from_pem(to_pem(CERTIFICATE)) == [CERTIFICATE]
    with pytest.raises(CertificateRefused):
        from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_the_same_randomness_makes_the_same_mesh() -> None:
    again = make_authority()
    assert again.certificate_der == AUTHORITY.certificate_der
    assert make_authority("other").mesh != AUTHORITY.mesh
    assert isinstance(again.key, PrivateKey)
