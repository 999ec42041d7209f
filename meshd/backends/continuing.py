"""Engines that go on after what another one said (trio shell).

`Continuing` knows of one engine's models whether and how they are told what was said; how that is
found out is in `ways.py`.  It is asked once for each model, and again when the engine is another.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshd.backends.control import Emit, RunControl
from meshd.backends.exchange import EngineHttp
from meshd.backends.openai_request import cannot_continue
from meshd.backends.seam import MoreTokens, Seam, ThoughtsFirst, WithoutEdge
from meshd.backends.ways import Asking, Form, NotSaid, Point, Ways
from meshd.inference import Delta, ModelInfo, Request, Usage


class Continuing:
    """What is known of one engine's models, and what follows from it for a request."""

    def __init__(self, engine: str, http: EngineHttp, ways: Ways) -> None:
        self._engine = engine
        self._http = http
        self._ways = ways
        self._known: dict[tuple[str, str, Point], Form | None] = {}

    def known(self, model: ModelInfo) -> bool | None:
        """Whether it goes on after plain text, if that was found out already."""
        key = (model.name, model.digest, Point.IN_TEXT)
        return self._known[key] is not None if key in self._known else None

    async def find_out(
        self, model: ModelInfo, point: Point = Point.IN_TEXT, control: RunControl | None = None
    ) -> Form | None:
        """How it is told, None if it cannot be; asked for unless it is known.

        `control` is that of the run that needs to know.  Raises NotSaid if the engine does not
        answer that, and as `EngineHttp.ask`.
        """
        key = (model.name, model.digest, point)
        if key not in self._known:
            ask = self._asking(model, control)
            self._known[key] = await self._ways.find(ask, point)
        return self._known[key]

    async def begin(
        self, request: Request, model: ModelInfo, emit: Emit, control: RunControl
    ) -> tuple[Request, Emit]:
        """What to ask the engine so that it goes on, and where to emit what it says.

        A request whose `max_tokens` are used up comes back with 0 of them.  Raises BackendFailed
        (UNSUPPORTED) if the engine cannot go on, and as `EngineHttp.ask`.
        """
        point, ask = Point.of(request), self._asking(model, control)
        form = await self._form(request, model, point, control)
        seams: list[Seam] = []
        if form.raw and point is Point.IN_THOUGHTS:
            seams.append(ThoughtsFirst(form.closing))
        if form.trims and (edge := _edge(request, point)):
            seams.append(WithoutEdge(edge, in_thoughts=point is Point.IN_THOUGHTS))
        limit = request.sampling.max_tokens
        if limit is not None:
            count = await self._ways.count(ask, request.partial_reasoning + request.partial)
            if (more := count - request.partial_tokens) > 0:
                seams.append(MoreTokens(more))
                left = msgspec.structs.replace(request.sampling, max_tokens=max(0, limit - more))
                request = msgspec.structs.replace(request, sampling=left)
        if form.raw:
            request = await self._ways.raw(ask, request, form)
        return request, _through(seams, emit)

    def _asking(self, model: ModelInfo, control: RunControl | None) -> Asking:
        return Asking(self._http, control, model.name, **self._ways.always(model))

    async def _form(
        self, request: Request, model: ModelInfo, point: Point, control: RunControl
    ) -> Form:
        form: Form | None = None
        try:
            if not request.raw:
                form = await self.find_out(model, point, control)
            elif point is Point.IN_TEXT:
                form = Form()  # a raw prompt is just longer: nothing to find out
        except NotSaid:
            pass  # it may say next time
        if form is None or (form.raw and (request.images or request.template)):
            raise cannot_continue(self._engine)
        return form


def _edge(request: Request, point: Point) -> str:
    """The white space that what was said ends with."""
    said = request.partial_reasoning if point is Point.IN_THOUGHTS else request.partial
    return said[len(said.rstrip()) :]


def _through(seams: Sequence[Seam], emit: Emit) -> Emit:
    if not seams:
        return emit

    async def emit_rest(items: Sequence[Delta | Usage]) -> None:
        for seam in seams:
            items = seam(items)
        if items:
            await emit(items)

    return emit_rest
