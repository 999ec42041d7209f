"""Engines of this node: found, watched, and spoken to, each in its own API.

See DESIGN.md beside this file.
"""

from meshd.backends.control import Backend, BackendFailed, Emit, RunControl
from meshd.backends.manager import Backends

__all__ = ["Backend", "BackendFailed", "Backends", "Emit", "RunControl"]
