"""Engines of this node: found, watched, and spoken to, each in its own API."""

from meshd.backends.control import Backend, BackendFailed, Emit, RunControl

__all__ = ["Backend", "BackendFailed", "Emit", "RunControl"]
