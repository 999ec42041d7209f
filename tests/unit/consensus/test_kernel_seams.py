"""The canary: what has to be looked at again when pysyncobj's pin moves.

If a test here fails, do not change the numbers.  Read the difference between the two versions of
pysyncobj/syncobj.py, then go through the table of hazards in meshd/consensus/DESIGN.md: each row
has a test that shows the hazard on the stock library, and one that shows it absent from ours.  Look
for every name in `kernel_seams` (are they called from the same places, in the same order?), and at
`_onTick`, which runs as it is.  Then run `python -m tests.sim.raft --seeds 1000`.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from pathlib import Path
from typing import Any

import pysyncobj
import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.serializer
import pysyncobj.syncobj
import pysyncobj.tcp_connection
import pytest

from meshd.consensus import kernel_seams
from meshd.consensus.kernel_seams import KernelUnsound, PickleReached, Turn, missing_names
from tests.unit.consensus.kernel_rig import Mesh

WHAT_TO_DO = (__doc__ or "").partition("\n\n")[2]


def test_the_installed_pysyncobj_is_the_one_that_was_read() -> None:
    source = Path(pysyncobj.syncobj.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest() == kernel_seams.SYNCOBJ_SHA256, WHAT_TO_DO
    assert pysyncobj.syncobj.VERSION == kernel_seams.VERSION, WHAT_TO_DO


def test_the_pin_is_exact_and_the_same_everywhere() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    wanted = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    assert f"pysyncobj=={kernel_seams.VERSION}" in wanted, WHAT_TO_DO


def test_every_private_name_is_there() -> None:
    assert missing_names() == [], WHAT_TO_DO


@pytest.mark.parametrize("name", ["raftLog", "sendAppendEntries", "monotonicTime"])
def test_a_name_that_is_gone_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = tuple(f"{n}2" if n == name else n for n in kernel_seams.FIELDS)
    monkeypatch.setattr(kernel_seams, "FIELDS", renamed)
    if name == "sendAppendEntries":
        monkeypatch.delattr(pysyncobj.SyncObj, kernel_seams.private(name))
    if name == "monotonicTime":
        monkeypatch.delattr(pysyncobj.syncobj, name)
    assert missing_names() != []


def test_another_version_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj.version, "VERSION", "0.3.18")
    with pytest.raises(KernelUnsound, match=r"needs pysyncobj 0\.3\.17, and 0\.3\.18 is"):
        kernel_seams._take_hold()


def test_every_field_is_set_by_stocks_constructor() -> None:
    stock = Mesh("a").kernel("a").stock
    for name in kernel_seams.FIELDS:
        if name not in ("serializer", "raftCommitIndex"):  # taken away, and replaced
            assert kernel_seams.private(name) in vars(stock), name


def test_every_pickle_path_of_pysyncobj_raises() -> None:
    syncobj: Any = pysyncobj.syncobj
    for module in (syncobj, pysyncobj.serializer, pysyncobj.tcp_connection):
        for name in ("load", "loads", "dump", "dumps"):
            with pytest.raises(PickleReached):
                getattr(module.pickle, name)(b"")
    # `pysyncobj.pickle` is what stands in its place, and these must raise, whoever asks: nothing
    # is unpickled here.
    for function in (
        pysyncobj.journal.loads,
        pysyncobj.journal.dumps,
        pysyncobj.pickle.load,
        pysyncobj.pickle.loads,
        pysyncobj.pickle.dump,
        pysyncobj.pickle.dumps,
    ):
        with pytest.raises(PickleReached):
            function(b"")


@pytest.mark.parametrize("method", ["addNodeToCluster", "removeNodeFromCluster"])
def test_what_would_pickle_raises(method: str) -> None:
    stock = Mesh("a").kernel("a").stock
    with pytest.raises(PickleReached):
        getattr(stock, method)(pysyncobj.node.Node("x"))


def test_only_one_module_imports_pysyncobj() -> None:
    """Another could import it before it is taken hold of."""
    package = Path(kernel_seams.__file__).parents[1]
    importing = [
        path.name
        for path in package.rglob("*.py")
        if any(line.startswith(("import pysyncobj", "from pysyncobj")) for line in
               path.read_text().splitlines())
    ]  # fmt: skip
    assert importing == ["kernel_seams.py"]


def test_a_stock_object_cannot_be_made_by_mistake() -> None:
    with pytest.raises(KernelUnsound), Turn(random.Random(1), 0.0):
        pysyncobj.SyncObj(None, [], pysyncobj.SyncObjConf(autoTick=False))


def test_pysyncobj_has_no_clock_of_its_own() -> None:
    with pytest.raises(KernelUnsound):
        pysyncobj.syncobj.monotonicTime()
    with pytest.raises(KernelUnsound):
        pysyncobj.syncobj.random.random()
    with pytest.raises(KernelUnsound):
        pysyncobj.syncobj.time.sleep(0)


def test_kernels_in_one_process_have_their_own_times_and_chances() -> None:
    outer, inner = Turn(random.Random(1), 5.0), Turn(random.Random(2), 7.0)
    with outer:
        with inner:
            assert pysyncobj.syncobj.monotonicTime() == 7.0
        assert pysyncobj.syncobj.monotonicTime() == 5.0
        assert pysyncobj.syncobj.random.random() == random.Random(1).random()
