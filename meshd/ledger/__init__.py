"""The record as this node lives it: the log, wired to its state, its disk and its links."""
