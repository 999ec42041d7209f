"""The command line's side of the control socket: HTTP over a UNIX socket, see `meshd.control`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshd import limits
from meshd.cli.shell import NotRunning, to_type
from meshd.control import Done, Problem
from meshd.errors import MeshdError, Refused
from meshd.paths import Paths

if TYPE_CHECKING:
    import httpx

ANSWER_S = 60.0
"""Orders are written into the record, or asked of members that may be slow to answer."""
LEAVE_S = limits.DRAIN_MAX_S + 2 * ANSWER_S
"""For a node to hand over what it has, end its requests, and be taken off the member list."""

T = TypeVar("T")


class ControlClient:
    """Asks one daemon.  Raises NotRunning, Refused with the daemon's own sentence, MeshdError."""

    def __init__(self, paths: Paths) -> None:
        import httpx  # not above: the daemon, which is started from here too, does without

        self.paths = paths
        self._http = httpx.Client(
            # A connection each time: one that is kept would outlive the daemon's socket file.
            transport=httpx.HTTPTransport(
                uds=str(paths.socket), limits=httpx.Limits(max_keepalive_connections=0)
            ),
            base_url="http://meshd",
            timeout=_timeout(ANSWER_S),
            trust_env=False,
        )

    def get(self, path: str, kind: type[T]) -> T:
        with self._explained():
            return self._read(self._http.get(path), kind)

    def post(
        self,
        path: str,
        kind: type[T],
        order: msgspec.Struct | None = None,
        *,
        within_s: float = ANSWER_S,
    ) -> T:
        body = msgspec.json.encode(order if order is not None else {})
        headers = {"content-type": "application/json"}
        with self._explained(within_s):
            response = self._http.post(
                path, content=body, headers=headers, timeout=_timeout(within_s)
            )
            return self._read(response, kind)

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """Bytes that are no JSON."""
        with self._explained():
            parts, size = [], 0
            with self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    self._read(response, Done)
                for part in response.iter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > max_bytes:
                        raise MeshdError(f"the daemon sends more than {max_bytes:,} bytes")
            return b"".join(parts)

    def order(
        self, path: str, order: msgspec.Struct | None = None, *, within_s: float = ANSWER_S
    ) -> str:
        """Give an order; what to show."""
        return self.post(path, Done, order, within_s=within_s).message

    def close(self) -> None:
        self._http.close()

    def _read(self, response: httpx.Response, kind: type[T]) -> T:
        if response.is_success:
            try:
                return msgspec.json.decode(response.content, type=kind)
            except msgspec.MsgspecError as error:
                raise MeshdError(
                    f"this meshd does not understand the one that runs ({error}): "
                    "restart the daemon so that both are of one version"
                ) from None
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.MsgspecError:
            raise MeshdError(
                f"the daemon answered {response.status_code} to {response.request.url.path}: "
                "restart it so that both are of one version"
            ) from None
        raise Refused(problem.error)

    @contextmanager
    def _explained(self, within_s: float = ANSWER_S) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            if _is_permission(error):
                raise MeshdError(
                    f"the daemon on {self.paths.data} belongs to another user: "
                    "run this as that user"
                ) from None
            raise NotRunning(
                f"no meshd is running for {self.paths.data}; "
                f"start it with: {to_type('meshd start', self.paths)}"
            ) from None
        except httpx.TimeoutException:
            raise MeshdError(
                f"the daemon on {self.paths.data} does not answer (waited {within_s:g} s); "
                "look at its log"
            ) from None
        except httpx.HTTPError as error:
            raise MeshdError(
                f"the daemon on {self.paths.data} closed the connection "
                f"({error or type(error).__name__}); look at its log"
            ) from None


def _timeout(answer_s: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(answer_s, connect=5.0)


def _is_permission(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError) or "[Errno 13]" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
