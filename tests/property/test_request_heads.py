"""What must hold for any request head, whoever sends it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from meshd.api.access import Access
from meshd.api.dialect import DialectError
from meshd.api.routes import Match, dialect_of, find
from meshd.ids import Address
from meshd.ports import Remote

ACCESS = Access(machine_names=frozenset({"anna"}), allowed_origins=("https://*.example.org",))
HERE = Remote(Address("127.0.0.1", 1))
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", ""])
PATHS = st.text(max_size=30) | st.builds(
    "{}{}".format, st.sampled_from(["/v1/models/", "/v1/", "/api/", "/"]), st.text(max_size=12)
)


def refusal(host: bytes, origin: bytes | None = None) -> DialectError | None:
    headers = {b"host": host, b"origin": origin}
    try:
        ACCESS.check("POST", "/api/chat", headers.get, HERE)
    except DialectError as error:
        return error
    return None


def let_in(host: bytes, origin: bytes | None = None) -> bool:
    refused = refusal(host, origin)
    assert refused is None or refused.status == 403
    return refused is None


def found(method: str, path: str) -> Match | DialectError:
    try:
        return find(method, path)
    except DialectError as error:
        return error


@given(host=st.binary(max_size=40), origin=st.none() | st.binary(max_size=40))
def test_any_host_and_origin_are_let_in_or_get_a_403(host: bytes, origin: bytes | None) -> None:
    let_in(host, origin)


@given(labels=st.lists(LABEL, min_size=1, max_size=4), zone=st.sampled_from(["com", "org", "zip"]))
@example(labels=["localhost"], zone="com")
@example(labels=["127", "0", "0", "1"], zone="com")
@example(labels=["a", "local"], zone="com")
def test_no_name_that_anybody_can_register_is_this_machine(labels: list[str], zone: str) -> None:
    assert not let_in(".".join([*labels, zone]).encode())


@given(labels=st.lists(LABEL, min_size=1, max_size=3), port=st.integers(1, 65535))
@example(labels=["localhost"], port=80)
@example(labels=["x", "example", "org"], port=443)
def test_no_page_of_the_web_is_let_in(labels: list[str], port: int) -> None:
    name = ".".join([*labels, "com"])
    for origin in (f"https://{name}", f"http://{name}:{port}", f"https://{name}/localhost"):
        assert not let_in(b"localhost:11435", origin.encode())


@given(method=METHODS, path=PATHS)
def test_any_method_and_path_are_found_or_refused_in_their_dialect(method: str, path: str) -> None:
    result = found(method, path)
    if isinstance(result, DialectError):
        assert result.status in (404, 405, 501)
    else:
        assert result.dialect is dialect_of(path)
