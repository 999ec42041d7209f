"""A node leaves its mesh for good: first its vote and the CA go to others, then its requests end,
then what it alone may keep of answers goes to the voters, then it goes itself.

Nobody must be missed afterwards.  A voter that just went would leave its vote behind until it is
replaced, the last one that has the CA's key would leave a mesh that can let nobody in, and answers
that were stored with it alone would be lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from msgspec.structs import replace

from meshd import logs
from meshd.consensus.voter_orders import forecast
from meshd.consensus.voters import Wish
from meshd.control import Done
from meshd.errors import MeshdError, Refused
from meshd.ids import NodeId
from meshd.jobs.handing_over import NotHandedOver
from meshd.ledger.ledger import Ledger
from meshd.record.commands_registry import ChangeNode

log = logs.get("node")

MOVE_S: Final = 20.0
"""For another to have the vote and the CA's key: seconds, unless it has a long log to learn."""
LOOK_S: Final = 0.25

_DESTROY: Final = "`meshd leave --destroy-mesh`"


class Departure:
    """How this node leaves."""

    def __init__(
        self,
        me: NodeId,
        ledger: Ledger,
        name_of: Callable[[NodeId], str],
        members: Callable[[], int],
        *,
        drain: Callable[[], Awaitable[None]],
        hand_over_answers: Callable[[], Awaitable[None]],
        take_out: Callable[[], Awaitable[Done]],
        serve_again: Callable[[], Awaitable[None]],
    ) -> None:
        """`members` is how many there are.

        `drain` returns when no request runs any more, `hand_over_answers` when the voters know all
        answers that are kept here (or raises NotHandedOver), `take_out` has this node taken
        off the member list, and `serve_again` takes the drain back.
        """
        self._me = me
        self._ledger = ledger
        self._name_of = name_of
        self._members = members
        self._drain = drain
        self._give_answers = hand_over_answers
        self._take_out = take_out
        self._serve_again = serve_again
        self._is_leaving = False

    async def leave(self) -> Done:
        """Be no member any more; nothing is missing then but this machine.

        Requests end first: who is no member is answered by nobody, and answers nobody.
        Raises MeshdError where that cannot be, with the reason; the node serves then as before.
        """
        if self._members() == 1:
            raise Refused(
                "this node is the only one in the mesh: there is nobody to whom its vote and the "
                f"CA's key could go. {_DESTROY} ends the mesh"
            )
        if self._is_leaving:
            raise Refused("this node is leaving already: its requests get their time to finish")
        self._is_leaving = True
        order = self._order()
        try:
            await self._hand_over()
            return await self._go(order)
        finally:
            self._is_leaving = False

    async def destroy(self) -> Done:
        """End the mesh here, where no other could go on with it.

        Raises Refused if one can.
        """
        others = self._members() - 1
        if others and await self._can_go():
            raise Refused(
                "others can go on with the mesh without this node: leave it (`meshd leave`). To "
                "end it for all, let the others leave first"
            )
        rest = (
            f" {others} other{' has' if others == 1 else 's have'} not been told: without a node "
            "that has the CA's key and votes that are a majority, they can let nobody in and write "
            "nothing down."
            if others
            else ""
        )
        return Done(
            "the mesh is ended here: what this node had of the CA's key and the record is deleted."
            f"{rest}"
        )

    # ---------------------------------------------------------------- inside

    async def _go(self, order: Wish) -> Done:
        """`order` is what was decided about its vote before it began to leave."""
        await self._drain()
        try:
            await self._hand_over()  # it may have been given a vote meanwhile
            await self._hand_over_answers(order)
            return await self._take_out()
        except MeshdError:
            await self._serve_again()
            raise

    async def _can_go(self) -> bool:
        try:
            await self._require_heirs()
        except MeshdError:
            return False
        return True

    async def _hand_over(self) -> None:
        """See that others have what this node alone must not take with it."""
        if await self._is_free():
            return
        await self._require_heirs()
        order, had = self._order(), self._parts()
        await self._ledger.execute(ChangeNode(node=self._me, vote=Wish.NEVER.value))
        with trio.move_on_after(MOVE_S):
            while True:
                if await self._is_free():
                    return
                await trio.sleep(LOOK_S)  # others do it, at several places: nothing tells of all
        missing, gone = self._what_is_missing(), had - self._parts()
        raise Refused(
            f"within {MOVE_S:.0f} s nobody had taken over {missing or 'all that it has'}. This "
            f"node is a member still{_but_gone(gone)}. {await self._take_back(order)} Try again "
            "when the others have caught up (`meshd voters` shows who follows)"
        )

    async def _hand_over_answers(self, order: Wish) -> None:
        """See that the voters have the answers and requests that are kept here as blobs."""
        try:
            await self._give_answers()
        except NotHandedOver as error:
            kept = "answer or request" if error.count == 1 else "answers and requests"
            vote = f" {await self._take_back(order)}" if self._order() is not order else ""
            raise Refused(
                f"up to {error.count} {kept} that this node keeps would be lost, because the "
                f"nodes that vote could not store them now: {str(error).rstrip('.')}. This node is "
                f"a member still, and serves again.{vote} Try again when those nodes have links "
                "and room on their disks (`meshd record status` there); to lose what is here, "
                f"order `meshd remove {self._name_of(self._me)}` at another node"
            ) from error

    def _order(self) -> Wish:
        """What was decided about this node's vote."""
        row = self._ledger.state.nodes.get(self._me)
        return Wish(row.vote) if row is not None else Wish.AUTO

    async def _take_back(self, order: Wish) -> str:
        """Have what was decided about its vote be as before; a sentence of what that means."""
        name = self._name_of(self._me)
        try:
            await self._ledger.execute(ChangeNode(node=self._me, vote=order.value))
        except MeshdError as error:
            return (
                f"That it is to have no vote stays on record ({str(error).rstrip('.')}); "
                f"`meshd voters auto {name}` takes that back."
            )
        if order is Wish.NEVER:
            return "That it is to have no vote was decided before."
        return f"It may get a vote again by itself; `meshd voters promote {name}` gives it one."

    async def _require_heirs(self) -> None:
        """Raise Refused unless the vote and the CA's key can go to others now."""
        driver = self._ledger.driver
        status = self._ledger.status
        if driver is None or status is None or status.leader is None:
            raise Refused(
                "nobody leads the record now, so this node can neither hand over what it has nor "
                "be taken off the member list: `meshd record status` says why. If that never "
                f"changes, {_DESTROY} has this node forget the mesh"
            )
        electors = await self._ledger.electorate.electors(driver)
        if self._me not in status.voters:
            return
        electors[self._me] = replace(electors[self._me], order=Wish.NEVER)
        after = forecast(status.leader, status.voters, electors)
        if self._me in after.voters:
            raise Refused(
                "no other node can take over this one's vote and the CA's key now (none that may "
                "have a vote answers and has the record). Start one, and try again; or, if this "
                f"is to be the end of the mesh, {_DESTROY}"
            )
        log.info("leaving: the votes go to others", to=list(map(self._name_of, after.voters)))

    async def _is_free(self) -> bool:
        """Nothing is missing without this node, and the others know that as well."""
        try:
            await self._ledger.read_barrier()
        except MeshdError as error:
            log.debug("leaving waits for the record", why=str(error))
            return False
        return not self._what_is_missing()

    def _parts(self) -> set[str]:
        """What this node has in the record, as it knows."""
        status = self._ledger.status
        if status is None:
            return set()
        leads = {"the lead"} if status.leader == self._me else set()
        return leads | ({"its vote"} if self._me in status.voters else set())

    def _what_is_missing(self) -> str:
        """What others do not have yet and this node has."""
        status = self._ledger.status
        missing = []
        if status is None or not status.voters or self._me in status.voters:
            missing.append("its vote")
        if self._holders() in ([], [self._me]):
            missing.append("the CA's key")
        return " and ".join(missing)

    def _holders(self) -> list[NodeId]:
        """Who has the CA's key, by the record."""
        return [NodeId(row.id) for row in self._ledger.state.nodes.rows() if row.holds_ca]


def _but_gone(gone: set[str]) -> str:
    """What has moved all the same."""
    if not gone:
        return ""
    return f"; {' and '.join(sorted(gone))} went to others already"
