"""Where this platform keeps a user's files: platformdirs, and one variable."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from platformdirs import PlatformDirs

from meshd.paths import Places


def platform_places(environ: Mapping[str, str]) -> Places:
    """This user's places.  `MESHD_RUNTIME_DIR` in `environ` replaces the runtime directory."""
    dirs = PlatformDirs("meshd", appauthor=False)
    # Not TMPDIR: it differs between a service and a shell, and both must find the same socket.
    # The name can be guessed; `FileDisk.private_folder` refuses it if it is somebody else's.
    fallback = Path(f"/tmp/meshd-{os.getuid()}")
    named = environ.get("MESHD_RUNTIME_DIR")
    if named:
        runtime = Path.cwd() / named
    elif sys.platform == "darwin":
        # The platform's place there is a cache, which may be emptied under a running daemon.
        runtime = dirs.user_state_path / "run"
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # says that it falls back: we say so in `paths`
                runtime = dirs.user_runtime_path
        except OSError:  # platformdirs refuses a runtime directory that is somebody else's
            runtime = fallback
    return Places(
        config=dirs.user_config_path,
        state=dirs.user_state_path,
        runtime=runtime,
        log=dirs.user_log_path,
        fallback_runtime=fallback,
    )
