"""What is on disk, and what happens when it is damaged or cut short."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from meshd.errors import DiskFailed
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    SERIAL_BYTES,
    IdentityStore,
    Keyring,
    MeshIdentity,
    PrivateKey,
    StoreDamaged,
)
from meshd.testing.disk import MemoryDisk
from tests.joins import NOW_UNIX_S, make_authority, make_key

DATA = PurePosixPath("/data")
KEY = make_key("store")


def identity(seed: int | str = 0, *, founder: bool = True, key: PrivateKey = KEY) -> MeshIdentity:
    authority = make_authority(seed)
    return MeshIdentity(
        name="attic",
        mesh_name="home",
        certificate_der=authority.issue(
            key.public, serial=bytes(SERIAL_BYTES), now_unix_s=NOW_UNIX_S
        ),
        ca_certificate_der=authority.certificate_der,
        keyring=Keyring.generate(b"k" * GOSSIP_KEY_BYTES),
        authority=authority if founder else None,
        founder=founder,
    )


def saved(*, founder: bool = True) -> tuple[MemoryDisk, IdentityStore, MeshIdentity]:
    disk = MemoryDisk()
    store = IdentityStore(disk, DATA)
    one = identity(founder=founder)
    store.save_key(KEY)
    store.save_mesh(one, b"members")
    return disk, store, one


def load_all(store: IdentityStore, one: MeshIdentity) -> None:
    key = store.load_key()
    assert key is not None
    store.load_mesh(key)
    store.load_members(one.mesh)


def test_an_empty_data_directory_has_no_key_and_no_mesh() -> None:
    store = IdentityStore(MemoryDisk(), DATA)
    assert store.load_key() is None
    assert store.load_mesh(KEY) is None


def test_everything_comes_back_as_it_was_kept() -> None:
    _, store, one = saved()
    key = store.load_key()
    assert key is not None
    assert key.public == KEY.public
    back = store.load_mesh(key)
    assert back is not None
    assert back.mesh == one.mesh
    assert (back.name, back.mesh_name) == ("attic", "home")
    assert back.certificate_der == one.certificate_der
    assert back.ca_certificate_der == one.ca_certificate_der
    assert back.keyring == one.keyring
    assert back.authority is not None
    assert back.authority.public == one.ca
    assert store.load_members(one.mesh) == b"members"
    assert store.load_applied(one.mesh) is None


def test_a_node_without_the_cas_key_has_no_authority() -> None:
    disk, store, one = saved(founder=False)
    assert DATA / one.mesh / "ca.key" not in disk.files
    back = store.load_mesh(KEY)
    assert back is not None
    assert back.authority is None


def test_secrets_are_in_private_files() -> None:
    disk, _, one = saved()
    folder = DATA / one.mesh
    assert disk.private == {
        DATA / "node.key",
        folder / "ca.key",
        folder / "keyring.json",
    }
    for path, data in disk.files.items():
        if path not in disk.private:
            assert b"PRIVATE KEY" not in data
            assert one.keyring.primary.secret not in data


@pytest.mark.parametrize(
    "name", ["node.key", "mesh.json", "ca.crt", "node.crt", "ca.key", "keyring.json"]
)
@pytest.mark.parametrize("data", [b"", b"garbage", b"{}", b"\xff\xfe"])
def test_a_damaged_file_is_named_with_what_to_do(name: str, data: bytes) -> None:
    disk, store, one = saved()
    path = next(p for p in disk.files if p.name == name)
    disk.files[path] = data

    with pytest.raises(StoreDamaged) as caught:
        load_all(store, one)
    text = str(caught.value)
    assert str(path) in text or str(path.parent) in text
    assert "backup" in text or "Delete it" in text


@pytest.mark.parametrize("name", ["ca.crt", "node.crt", "keyring.json", "members"])
def test_a_missing_file_is_named(name: str) -> None:
    disk, store, one = saved()
    del disk.files[DATA / one.mesh / name]

    with pytest.raises(StoreDamaged, match=f"{name} cannot be used: it is missing"):
        load_all(store, one)


def test_files_that_do_not_belong_together_are_told_apart() -> None:
    _, store, one = saved()
    with pytest.raises(StoreDamaged, match="not for the key"):
        store.load_mesh(make_key("other"))
    other = identity("other")
    store.save_certificate(one.mesh, other.certificate_der)
    with pytest.raises(StoreDamaged, match=r"node\.crt"):
        store.load_mesh(KEY)
    store.save_certificate(one.mesh, one.certificate_der)


def test_a_founder_whose_ca_key_is_gone_or_another_is_still_the_founder() -> None:
    """The other voters give it back; what is in its place is no authority."""
    disk, store, one = saved()
    path = DATA / one.mesh / "ca.key"
    for found in (None, make_authority("other").key.pem()):
        disk.files.pop(path)
        if found is not None:
            disk.files[path] = found
        back = store.load_mesh(KEY)
        assert back is not None
        assert back.founder
        assert back.authority is None
        store.ca_keys(one.mesh).keep(make_authority().key)
    again = store.load_mesh(KEY)
    assert again is not None
    assert again.authority is not None


def test_a_prepared_ca_key_takes_the_place_of_the_other_in_private_files() -> None:
    disk, store, one = saved()
    folder, new = DATA / one.mesh, make_key("next ca")
    store.ca_keys(one.mesh).prepare(new)
    files = store.ca_keys(one.mesh)
    assert files.next is not None
    assert files.next.public == new.public
    assert files.key is not None
    assert files.key.public == one.ca
    assert {folder / "ca.key", folder / "ca-next.key"} <= disk.private
    files.promote()
    files = store.ca_keys(one.mesh)
    assert files.next is None
    assert files.key is not None
    assert files.key.public == new.public
    files.drop()
    assert store.ca_keys(one.mesh).key is None


def test_a_damaged_secret_is_not_quoted() -> None:
    disk, store, one = saved()
    disk.files[DATA / one.mesh / "keyring.json"] = b'{"version": 1, "keys": ["c2VjcmV0"]}'
    with pytest.raises(StoreDamaged) as caught:
        store.load_mesh(KEY)
    assert "c2VjcmV0" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_of_a_later_version_is_refused_not_guessed_at() -> None:
    disk, store, _ = saved()
    path = DATA / "mesh.json"
    disk.files[path] = disk.files[path].replace(b'"format": 1', b'"format": 2')
    with pytest.raises(StoreDamaged, match="newer meshd"):
        store.load_mesh(KEY)


def test_a_mesh_id_in_the_file_cannot_point_outside_of_the_data_directory() -> None:
    disk, store, one = saved()
    path = DATA / "mesh.json"
    disk.files[path] = disk.files[path].replace(one.mesh.encode(), b"../../../../etc/x")
    with pytest.raises(StoreDamaged, match="mesh id"):
        store.load_mesh(KEY)


class CutDisk(MemoryDisk):
    """Breaks after so many writes and deletes."""

    def __init__(self, files: dict[PurePosixPath, bytes], steps: int) -> None:
        super().__init__()
        self.files.update(files)
        self.steps = steps

    def write(self, path: PurePosixPath, data: bytes, *, private: bool) -> None:  # type: ignore[override]
        self._step()
        super().write(path, data, private=private)

    def delete(self, path: PurePosixPath) -> None:  # type: ignore[override]
        self._step()
        super().delete(path)

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            self.broken = "power is gone"


def test_a_change_of_mesh_that_is_cut_anywhere_leaves_one_mesh_whole() -> None:
    before, _, old = saved()
    new = identity("new", founder=False)
    seen = set()
    for steps in range(50):
        disk = CutDisk(dict(before.files), steps)  # type: ignore[arg-type]
        store = IdentityStore(disk, DATA)
        try:
            store.save_mesh(new, b"new members")
            done = True
        except DiskFailed:
            done = False
        disk.broken = None
        back = IdentityStore(disk, DATA).load_mesh(KEY)
        assert back is not None
        seen.add(back.mesh)
        if back.mesh == old.mesh:
            assert back.authority is not None
        if done:
            break
    assert done
    assert seen == {old.mesh, new.mesh}
    assert not any(path.parent.name == old.mesh for path in disk.files)


def test_leaving_forgets_the_mesh_and_the_key() -> None:
    disk, store, _ = saved()
    store.leave()
    assert store.load_key() is None
    assert store.load_mesh(KEY) is None
    assert disk.files == {}


# --- generations


def test_each_start_has_a_higher_generation() -> None:
    disk = MemoryDisk()
    generations = [IdentityStore(disk, DATA).next_generation(0.0) for _ in range(3)]
    assert generations == [1, 2, 3]


def test_a_generation_never_comes_twice_even_from_an_old_backup() -> None:
    disk = MemoryDisk()
    store = IdentityStore(disk, DATA)
    store.next_generation(1000.0)
    backup = dict(disk.files)
    later = store.next_generation(2000.0)
    disk.files = backup
    assert store.next_generation(2001.0) > later


def test_a_clock_that_goes_back_does_not_take_the_generation_with_it() -> None:
    store = IdentityStore(MemoryDisk(), DATA)
    first = store.next_generation(5000.0)
    assert store.next_generation(10.0) == first + 1


@pytest.mark.parametrize("data", [b"", b"x", b"-1", b"1.5", b"9" * 30])
def test_a_damaged_generation_is_named(data: bytes) -> None:
    disk = MemoryDisk()
    disk.write(DATA / "generation", data, private=False)
    with pytest.raises(StoreDamaged, match="generation cannot be used"):
        IdentityStore(disk, DATA).next_generation(1.0)
