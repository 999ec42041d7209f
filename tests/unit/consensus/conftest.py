"""The kernel takes hold of pysyncobj first, whichever test is imported first.

Imported by itself pysyncobj replaces `socket.inet_ntop` for the whole process.
"""

import meshd.consensus.kernel_seams  # noqa: F401
