"""A call into a kernel from outside: what it raises by mistake is the kernel's end.  Pure."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from meshd.consensus.kernel_seams import Turn

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class Call(Turn):
    """Hands the time to everything below; afterwards the parts agree with the log."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel, now: float) -> None:
        kernel.begin_call(now)
        super().__init__(kernel.chance, kernel.now)
        self._kernel = kernel

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._kernel.agree()
        except Exception as failure:  # noted as this kernel's end, and raised again
            self._kernel.failed(failure)
            raise
        finally:
            super().__exit__(kind, error, traceback)
        if error is not None:
            self._kernel.failed(error)
