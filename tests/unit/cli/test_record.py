"""`meshd record check|repair|backup|restore` on a data directory as it is on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from meshd.control import Problem, RecordReport
from meshd.identity import IdentityStore
from meshd.identity.keys import PublicKey
from meshd.ledger.examination import Examination
from meshd.machine.disk import FileDisk
from tests.joins import Mesh
from tests.unit.ledger.journals import Kept, founding, history

from .conftest import Typed, run_meshd
from .daemon import FakeDaemon


class Node(Kept):
    """The founder of a mesh, in a data directory."""

    def __init__(self, data_dir: Path, seed: int = 0) -> None:
        mesh = Mesh(seed)
        self.ca: PublicKey = mesh.authority.public
        self.key: PublicKey = mesh.key.public
        data_dir.mkdir(exist_ok=True)
        data_dir.chmod(0o700)
        store = IdentityStore(FileDisk(), data_dir)
        store.save_key(mesh.key)
        store.save_mesh(mesh.identity, mesh.store.load_members(mesh.identity.mesh))
        super().__init__(FileDisk(), data_dir, ca=self.ca, node=self.key)

    def used(self) -> Node:
        """It has a record, with aliases in it."""
        self.write(*history(self.ca, self.key))
        return self

    def fresh(self) -> Node:
        """It has a record that nobody has used."""
        self.write(*founding(self.ca, self.key))
        return self

    def saved(self, file: Path) -> Path:
        file.write_bytes(self.backup_bytes([self.key]))
        return file


@pytest.fixture
def node(data_dir: Path) -> Node:
    return Node(data_dir)


def record(commit: int) -> RecordReport:
    return RecordReport(
        problem="", leader="attic", term=1, last=commit, commit=commit, applied=commit,
        digest="00", sync_ms=0.2, members=1, voters=[],
    )  # fmt: skip


def bytes_of(data_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- check


def test_a_sound_journal_ends_with_0_and_nothing_is_changed(
    node: Node, type_in: Typed, data_dir: Path
) -> None:
    node.used()
    before = bytes_of(data_dir)
    done = type_in("record", "check")
    assert done.exit_code == 0, done.stderr
    assert "The journal is in order." in done.stdout
    assert "this node alone has a vote" in done.stdout
    assert "4 commands (SetAlias 2, Found 1, Started 1)" in done.stdout
    assert node.state().digest().hex()[:16] in done.stdout
    assert bytes_of(data_dir) == before


def test_the_examination_as_json_is_the_whole_of_it(node: Node, type_in: Typed) -> None:
    node.used()
    found = msgspec.json.decode(type_in("record", "check", "--json").stdout, type=Examination)
    assert found.digest == node.state().digest().hex()
    assert found.voters == [node.place.me]


def test_a_damaged_journal_ends_with_1_and_says_what_to_do(node: Node, type_in: Typed) -> None:
    node.used().damage()
    done = type_in("record", "check")
    assert done.exit_code == 1
    assert "! " in done.stdout
    assert "meshd record repair" in done.stdout


def test_while_a_daemon_runs_only_what_it_knows_to_be_committed_counts(
    node: Node, type_in: Typed, daemon: FakeDaemon
) -> None:
    others = [Mesh(seed).key.public for seed in (1, 2)]
    node.write(*history(node.ca, node.key), voters=[node.key, *others])
    daemon.answers["GET /control/record"] = record(5)
    done = type_in("record", "check")
    assert done.exit_code == 0
    assert "state after entry 5" in done.stdout
    assert "3 votes" in done.stdout


@pytest.mark.parametrize("words", [("check",), ("repair",), ("restore", "pyproject.toml")])
def test_where_no_node_ever_was_it_says_so(
    words: tuple[str, ...], type_in: Typed, data_dir: Path
) -> None:
    done = type_in("record", *words)
    assert done.exit_code == 2
    assert "of no node of a mesh" in done.stderr
    assert not data_dir.exists()


# ---------------------------------------------------------------- repair


def test_repair_tells_what_it_did(node: Node, type_in: Typed) -> None:
    node.used()
    path = Path(node.segment())
    path.write_bytes(path.read_bytes() + bytes(600))
    done = type_in("record", "repair")
    assert (done.exit_code, done.stdout.count("cut off")) == (0, 1)
    assert type_in("record", "repair").stdout == "There is nothing to repair.\n"


@pytest.mark.parametrize("words", [("repair",), ("repair", "--set-aside"), ("restore", "b")])
def test_while_the_daemon_runs_nothing_is_repaired(
    words: tuple[str, ...],
    node: Node,
    type_in: Typed,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node.used().saved(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    held = FileDisk()
    assert held.lock(data_dir / "lock") is None
    done = type_in("record", *words)
    held.unlock(data_dir / "lock")
    assert done.exit_code == 1
    assert f"meshd (pid {os.getpid()}) is running" in done.stderr
    assert f"meshd stop --data-dir {data_dir}" in done.stderr


def test_a_sole_voters_journal_is_set_aside_only_with_the_flag_that_says_it(
    node: Node, type_in: Typed
) -> None:
    node.used()
    refused = type_in("record", "repair", "--set-aside")
    assert refused.exit_code == 1
    assert "--lose-the-record" in refused.stderr
    assert type_in("record", "repair", "--lose-the-record").exit_code == 2
    done = type_in("record", "repair", "--set-aside", "--lose-the-record")
    assert done.exit_code == 0, done.stderr
    assert ".aside-1" in done.stdout
    assert "Set aside before:" in type_in("record", "check").stdout


# ---------------------------------------------------------------- backup


def test_a_backup_is_private_and_is_what_the_daemon_sent(
    node: Node, type_in: Typed, daemon: FakeDaemon, tmp_path: Path
) -> None:
    sent = node.used().backup_bytes([node.key])
    daemon.answers["GET /control/record/backup"] = sent
    file = tmp_path / "record.backup"
    done = type_in("record", "backup", str(file))
    assert done.exit_code == 0, done.stderr
    assert file.read_bytes() == sent
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "as of entry 6" in done.stdout
    assert "keep it private" in done.stderr
    again = type_in("record", "backup", str(file))
    assert (again.exit_code, file.read_bytes()) == (1, sent)
    assert "--force" in again.stderr
    file.write_bytes(b"old")
    assert type_in("record", "backup", str(file), "--force").exit_code == 0
    assert file.read_bytes() == sent


@pytest.mark.parametrize("sent", [b"", b"something else", b"cut"])
def test_what_is_no_backup_is_not_kept_as_one(
    sent: bytes, node: Node, type_in: Typed, daemon: FakeDaemon, tmp_path: Path
) -> None:
    whole = node.used().backup_bytes([node.key])
    daemon.answers["GET /control/record/backup"] = whole[:-9] if sent == b"cut" else sent
    done = type_in("record", "backup", str(tmp_path / "b"))
    assert done.exit_code == 1
    assert "cannot be used" in done.stderr
    assert not (tmp_path / "b").exists()


def test_why_the_daemon_cannot_back_it_up_is_told_in_its_words(
    type_in: Typed, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.answers["GET /control/record/backup"] = Problem("nobody can say what was acknowledged")
    done = type_in("record", "backup", str(tmp_path / "b"))
    assert (done.exit_code, done.stderr) == (1, "meshd: nobody can say what was acknowledged\n")


def test_a_backup_goes_into_a_folder_that_is_there_and_needs_a_daemon(
    type_in: Typed, tmp_path: Path
) -> None:
    for target in (tmp_path / "none" / "b", tmp_path):
        assert type_in("record", "backup", str(target)).exit_code == 2
    assert type_in("record", "backup", str(tmp_path / "b")).exit_code == 2


# ---------------------------------------------------------------- restore


def test_a_backup_is_restored_where_nothing_but_the_founding_is(
    node: Node, type_in: Typed, tmp_path: Path
) -> None:
    file = Node(tmp_path / "former").used().saved(tmp_path / "b")
    node.fresh()
    done = type_in("record", "restore", str(file))
    assert done.exit_code == 0, done.stderr
    assert "with 1 member and 0 open jobs" in done.stdout
    assert node.state().settings.aliases() == {"x": "m", "y": "m"}
    assert type_in("record", "check").exit_code == 0


def test_restore_says_why_it_will_not(node: Node, type_in: Typed, tmp_path: Path) -> None:
    file = Node(tmp_path / "former").used().saved(tmp_path / "b")
    other = Node(tmp_path / "other mesh", seed=7).used().saved(tmp_path / "other")
    node.used()
    for words, code, why in (
        ((str(file),), 1, "has a record with a history"),
        ((str(other),), 1, "of the mesh"),
        ((str(node.segment()),), 1, "cannot be used"),
        ((str(tmp_path / "none"),), 2, "there is no file"),
        ((str(tmp_path),), 1, "folder"),
    ):
        done = type_in("record", "restore", *words)
        assert (done.exit_code, why in done.stderr) == (code, True), done.stderr
    assert node.state().settings.aliases() == {"x": "m", "y": "m"}


def test_the_real_command_checks_without_a_traceback(node: Node, data_dir: Path) -> None:
    node.used().damage()
    done = run_meshd("record", "check", "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
