"""Why a journal is not written, or not opened.  Pure."""

from __future__ import annotations

from pathlib import PurePath

from meshd.errors import MeshdError


class JournalFailed(MeshdError):
    """A write did not become durable, and how much of it is on the disk is not known.

    From then on this journal takes nothing: a disk that has failed to sync once may well say that
    it succeeds the second time, and the data be gone.  Whoever asked steps down, and speaks of
    nothing that was in the write.  The journal may be opened anew when the disk is in order.
    """


class JournalUnusable(MeshdError):
    """This node may not go on with these files; they are unchanged."""

    advice = ""

    def __init__(self, file: PurePath, what: str) -> None:
        """`what` is wrong with the file, as half a sentence."""
        super().__init__(f"{file}: {what}. {self.advice}")
        self.file = file
        self.what = what


class JournalNewer(JournalUnusable):
    """A later meshd wrote it."""

    advice = "It was written by a later meshd: update this one."


class JournalForeign(JournalUnusable):
    """It is the journal of another node, or of another mesh."""

    advice = (
        "What one node has promised counts for no other. Put this node's own journal back, or set "
        "this one aside (`meshd record repair --set-aside`), and the node gets a fresh copy of the "
        "record from the others."
    )


class JournalDamaged(JournalUnusable):
    """What this node has promised or acknowledged may be missing in it."""

    advice = (
        "What this node has acknowledged may be missing, so it takes no part with this journal. "
        "`meshd record check` shows what is left, `meshd record repair` what can be done."
    )
