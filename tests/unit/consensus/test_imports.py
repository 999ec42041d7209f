"""What importing the kernel does to the rest of the process: nothing."""

from __future__ import annotations

import subprocess
import sys


# The stock library changes `pickle` and `socket` for the whole process when it is imported, so both
# are looked at from a process of its own.  All that is unpickled there it has pickled itself.
def test_importing_the_kernel_leaves_sockets_and_pickle_as_they_were() -> None:
    code = (
        "import pickle, socket; "
        "before = socket.inet_ntop, socket.inet_pton, dict(pickle._Unpickler.dispatch); "
        "import meshd.consensus.kernel; "
        "after = socket.inet_ntop, socket.inet_pton, dict(pickle._Unpickler.dispatch); "
        "assert after == before; "
        "assert pickle.loads(pickle.dumps([1])) == [1]; "
        "assert socket.inet_ntop(socket.AF_INET6, bytes(15) + bytes([1])) == '::1'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
