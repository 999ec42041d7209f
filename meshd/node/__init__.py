"""One node, composed: ports in, nursery out.  The only package that knows everyone.

`run` enters a mesh and obeys signals; `mesh` is the node among the other members, `data` its way of
answering requests, `record` and `jobs` its part in what all keep together; `node` puts them
together, serves clients and the command line, and drains.
DESIGN.md has the order of start and stop.
"""

from meshd.node.node import Node
from meshd.node.run import enter, run_node

__all__ = ["Node", "enter", "run_node"]
