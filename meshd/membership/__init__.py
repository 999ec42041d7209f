"""Who is in the mesh, where, and whether it is alive: SWIM with Lifeguard.

`core.Core` is the pure state machine; see DESIGN.md beside this file.
"""

from meshd.membership.constants import LAN, Settings
from meshd.membership.core import Core
from meshd.membership.members import Member, Members, State

__all__ = ["LAN", "Core", "Member", "Members", "Settings", "State"]
