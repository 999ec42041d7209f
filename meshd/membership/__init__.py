"""Who is in the mesh, where, and whether it is alive: SWIM with Lifeguard, and mDNS.

`Core` is the pure state machine, `Agent` runs it on a socket, `Mdns` finds addresses.  See
DESIGN.md beside this file.
"""

from meshd.membership.agent import Agent
from meshd.membership.constants import LAN, Settings
from meshd.membership.core import Core
from meshd.membership.mdns import Mdns, MdnsFailed
from meshd.membership.members import State
from meshd.membership.sightings import Announcement, Sighting
from meshd.membership.views import Change, MemberView

__all__ = [
    "LAN",
    "Agent",
    "Announcement",
    "Change",
    "Core",
    "Mdns",
    "MdnsFailed",
    "MemberView",
    "Settings",
    "Sighting",
    "State",
]
